"""`python -m holdfast`."""

import sys

from holdfast.cli import main

if __name__ == "__main__":  # the API's worker processes import this module, and run nothing
    sys.exit(main())
