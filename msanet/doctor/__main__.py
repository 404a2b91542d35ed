"""SampleStatistics at a run's data and settings before it starts, and say what to change.

    python -m msanet.doctor --config jobs/recipes/camvid.yaml data.path=SHARDS run.dir=RUN [key=value ...]

Takes what launcher/train.py takes, and the options below. Exit code 0: no fault; 1: a fault; 2: nothing to examine.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from msanet.cli import train_config
from msanet.cli.parser import Parser
from msanet.doctor.diagnostics import as_text, as_tree, has_fault
from msanet.doctor.examination import Case, examine
from msanet.errors import UserError, user_errors

_SAMPLES = 50


def main(argv: Sequence[str] | None = None) -> int:
    """Examine, print, and return the exit code. Raises SystemExit(2) after one sentence where there is nothing to examine."""
    parser = _parser()
    own, rest = parser.parse_known_args(argv)
    with user_errors():
        for option, value in (
            ("--ranks", own.ranks),
            ("--samples", own.samples),
            ("--device-memory", own.device_memory),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{option} is {value:g}, expected a number above 0; correct it")
        config = train_config(f"{__doc__}\n{_options_help(parser)}", rest)
        device_bytes = own.device_memory * 1e9 if own.device_memory else _device_bytes()
        diagnostics = examine(Case(config, own.ranks or _default_ranks(), device_bytes, own.samples))
    print(json.dumps(as_tree(diagnostics), indent=1) if own.json else as_text(diagnostics))
    return int(has_fault(diagnostics))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks of the job (default: GPUs of this machine, or 1)")
    memory = "memory of a rank's device in 10^9 bytes (default: that of the GPU here, else memory is not judged)"
    parser.add_argument("--device-memory", type=float, metavar="GB", help=memory)
    samples = f"samples of each split that are decoded (default {_SAMPLES})"
    parser.add_argument("--samples", type=int, default=_SAMPLES, metavar="N", help=samples)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def _options_help(parser: argparse.ArgumentParser) -> str:
    return parser.format_help().partition("\n\n")[2]


def _default_ranks() -> int:
    return max(1, torch.cuda.device_count())


def _device_bytes() -> float | None:
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


if __name__ == "__main__":
    sys.exit(main())
