"""`python -m mmrobust` is `mmrobust`."""

import sys

from mmrobust.cli import main

if __name__ == "__main__":
    sys.exit(main())
