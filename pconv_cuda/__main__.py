"""``python -m pconv_cuda`` is the command ``pconv``."""

import sys

from pconv_cuda.cli import main

if __name__ == "__main__":
    sys.exit(main())
