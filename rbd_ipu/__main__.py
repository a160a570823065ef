"""``python -m rbd_ipu`` is the command ``rbd-ipu``."""

import sys

from rbd_ipu.cli import main

if __name__ == "__main__":
    sys.exit(main())
