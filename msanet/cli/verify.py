"""`msanet verify`: every byte of packed shards is checked."""

from collections.abc import Sequence

from msanet.cli.parser import new_parser, parse
from sharding.verify import add_arguments, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("verify", "verify SHARDS")
    add_arguments(parser)
    return run(parse(parser, argv))
