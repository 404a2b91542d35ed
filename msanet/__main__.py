"""`python -m msanet COMMAND ...`, the same as `msanet COMMAND ...`."""

import sys

from msanet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
