"""`python -m sharding NAME ...`: `msanet pack NAME`, or for verify, inspect and synthetic the command of that name."""

import sys
from collections.abc import Sequence

from msanet.cli.main import main as run
from msanet.errors import UserError, nearest, user_errors
from msanet.process_setup import prepare_process
from sharding.readers import READERS, installed_readers, is_reader_name

TOOLS = {"verify": "verify", "inspect": "inspect", "synthetic": "generate"}
"""Name -> command of `msanet`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code."""
    if argv is None:
        prepare_process()
    words = list(sys.argv[1:] if argv is None else argv)
    known = [*READERS, *installed_readers(), *TOOLS]
    with user_errors():
        if words and not words[0].startswith("-") and words[0] not in TOOLS and not is_reader_name(words[0]):
            message = f"unknown dataset or command '{words[0]}'; {nearest(words[0], known)}"
            raise UserError("MSA-CLI-002", message)
    return run([TOOLS[words[0]], *words[1:]] if words and words[0] in TOOLS else ["pack", *words])


if __name__ == "__main__":
    sys.exit(main())
