"""Quality metrics over generated images behind one streaming interface."""
