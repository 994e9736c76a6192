"""`python -m geotdm_fast` is the command `geotdm`."""

import sys

from geotdm_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
