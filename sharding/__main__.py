"""`python -m sharding NAME ...`: `msanet pack NAME`, or for verify, inspect and synthetic the command of that name."""

import sys
from collections.abc import Sequence

from msanet.cli.main import main as run

TOOLS = {"verify": "verify", "inspect": "inspect", "synthetic": "generate"}
"""Name -> command of `msanet`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run([TOOLS[words[0]], *words[1:]] if words and words[0] in TOOLS else ["pack", *words])


if __name__ == "__main__":
    sys.exit(main())
