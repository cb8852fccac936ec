"""What a finished or running study looks like: plots, grids, one-line answers."""
