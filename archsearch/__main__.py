"""``python -m archsearch``."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] == os.getcwd():
    del sys.path[0]  # code that lies in the working folder is not ours: a statistics.py, say

from archsearch.cli import main

if __name__ == "__main__":
    main()
