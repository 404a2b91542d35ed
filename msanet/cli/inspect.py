"""`msanet inspect`: what packed shards contain, and what a training makes of them."""

import argparse
from collections.abc import Sequence

from msanet.cli.parser import at_least, new_parser, parse
from msanet.config import load_config
from msanet.errors import UserError
from sharding.inspection import MAX_SAMPLES, add_arguments, require_sheet, run

_DETAILS = """What training sees, with the settings of a run:
  msanet inspect SHARDS --augmented 12 --sheet sheet.png --config camvid data.augment=strong"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("inspect", "inspect SHARDS --sheet sheet.png", _DETAILS)
    add_arguments(parser)
    augmented = (
        "draw the first N samples of a training on --sheet instead, augmented as the settings say; SHARDS may then be "
        "whatever data.path takes"
    )
    parser.add_argument("--augmented", type=at_least(1), metavar="N", help=augmented)
    parser.add_argument(
        "--config", metavar="FILE", help="settings of the training, a file or a recipe, for --augmented"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that override them")
    arguments = parse(parser, argv)
    if arguments.augmented is None:
        _require_no_settings(arguments)
        return run(arguments)
    return _draw_augmented(arguments)


def _require_no_settings(arguments: argparse.Namespace) -> None:
    given = arguments.config or next(iter(arguments.settings), None)
    if given is not None:
        raise UserError(
            "MSA-CLI-006",
            f"'{given}' is given without --augmented, expected settings only with it; remove it, or add --augmented N",
            setting="--augmented",
        )


def _draw_augmented(arguments: argparse.Namespace) -> int:
    from msanet.cli.augmented_sheet import write_augmented_sheet  # with PyTorch, slow to import

    if arguments.sheet is None:
        message = "--augmented is given without --sheet, expected a file to draw on; add --sheet FILE.png"
        raise UserError("MSA-CLI-006", message, setting="--sheet")
    if arguments.augmented > MAX_SAMPLES:
        message = f"--augmented is {arguments.augmented}, expected 1 to {MAX_SAMPLES}; choose such a number"
        raise UserError("MSA-CLI-003", message, setting="--augmented")
    require_sheet(arguments.sheet)
    where = {"path": arguments.shards, **({"train_split": arguments.split} if arguments.split else {})}
    config = load_config(arguments.config, arguments.settings, {"data": where}, origin="SHARDS")
    print(f"{write_augmented_sheet(config, arguments.augmented, arguments.sheet)}\nwrote {arguments.sheet}")
    return 0
