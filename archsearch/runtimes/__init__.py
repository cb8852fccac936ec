"""Inference runtimes behind one interface: convert a module, run it."""
