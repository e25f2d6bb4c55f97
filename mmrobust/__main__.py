"""`python -m mmrobust` is `mmrobust`."""

import os
import sys

# `python -m` looks for modules in the current folder first, where a stranger's yaml.py may lie.
if sys.path[:1] == [os.getcwd()] and os.getcwd() != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
    del sys.path[0]

from mmrobust.cli import main

if __name__ == "__main__":
    sys.exit(main())
