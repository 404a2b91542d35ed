"""`msanet generate`: procedural street scenes in the layout of Cityscapes."""

from collections.abc import Sequence

from msanet.cli.parser import new_parser, parse
from sharding.synthetic import add_arguments, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("generate", "generate --out street --images 240 --size 256x128")
    add_arguments(parser)
    return run(parse(parser, argv))
