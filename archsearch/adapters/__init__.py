"""What is made from a trained network: fewer steps by distillation, and adapters."""
