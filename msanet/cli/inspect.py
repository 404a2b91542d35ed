"""`msanet inspect`: what packed shards contain."""

from collections.abc import Sequence

from msanet.cli.parser import new_parser, parse
from sharding.inspection import add_arguments, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("inspect", "inspect SHARDS --sheet sheet.png")
    add_arguments(parser)
    return run(parse(parser, argv))
