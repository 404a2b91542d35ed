"""The command line of launcher/demo.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msanet.cli.parser import add_checkpoint_arguments, checkpoint_and_config, new_parser
from msanet.config import EvaluationConfig
from msanet.demo.segmenter import Limits
from msanet.errors import UserError


@dataclass(frozen=True)
class DemoJob:
    """What demo.py is asked for. port: 0 for any free one."""

    checkpoint: Path
    settings: EvaluationConfig
    host: str
    port: int
    limits: Limits


def demo_job(description: str, argv: Sequence[str]) -> DemoJob:
    """Read demo.py's command line. Raises UserError on a port or limit that makes no sense."""
    parser = new_parser(description)
    add_checkpoint_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; this machine alone unless given")
    parser.add_argument("--port", type=int, default=7860, help="0: any free one")
    default = Limits()
    for option, unit in (("--max-megabytes", "of a file"), ("--max-megapixels", "of an image")):
        usual = getattr(default, option.removeprefix("--max-"))
        parser.add_argument(option, type=float, default=usual, metavar="N", help=f"{unit}; {usual:g} unless given")
    parser.add_argument(
        "--side",
        type=int,
        default=default.side,
        metavar="PIXELS",
        help=f"the network gets images with a longer side scaled down to this one; {default.side} unless given",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="evaluation.* settings that override the run's"
    )
    arguments = parser.parse_intermixed_args(argv)
    for option in ("max_megabytes", "max_megapixels", "side"):
        value = getattr(arguments, option)
        if not 0 < value < math.inf:
            raise UserError(f"--{option.replace('_', '-')} is {value:g}, expected a number above 0; correct it")
    if not 0 <= arguments.port < 65536:
        raise UserError(f"--port is {arguments.port}, expected 0 to 65535; choose for example 7860")
    checkpoint, config = checkpoint_and_config(arguments, arguments.settings)
    limits = Limits(arguments.max_megabytes, arguments.max_megapixels, arguments.side)
    return DemoJob(checkpoint, config.evaluation, arguments.host, arguments.port, limits)
