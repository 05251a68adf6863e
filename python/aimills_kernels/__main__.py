"""`python -m aimills_kernels` is the command `aimills-kernels`."""

import sys

from aimills_kernels.cli import main

if __name__ == "__main__":
    sys.exit(main())
