"""The live page of a run: a server of this machine, watched and steered from a browser."""
