"""`msanet doctor`: look at a run's data and settings, or at a raw dataset, before anything starts, and report what to change."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from msanet.api.examination import SAMPLES, examine_run, folder_case
from msanet.cli.output import print_result
from msanet.cli.parser import Parser, at_least, new_parser, option_value, parse, require_positive
from msanet.cli.train import add_training_arguments, config_of, options_as_settings
from msanet.doctor.diagnostics import Diagnostic, as_text, as_tree, has_fault
from msanet.doctor.folder_check import PAGE, check_folder, require_alone, require_folder

_DETAILS = """Takes what msanet train takes, or --folder. Exit code 0: no fault; 1: a fault; 2: nothing to examine.

Check a raw dataset before packing:
  msanet doctor --folder DIR --classes classes.yaml --out CHECK"""
_OF_FOLDER = ("--classes", "--dataset", "--splits", "--out", "--workers")
_OF_TRAINING = ("--config", "--deepspeed_config", "--ranks", "--device-memory")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("doctor", "doctor --config camvid data.path=SHARDS run.dir=RUN", _DETAILS)
    add_training_arguments(parser)
    ranks = "ranks of the job (default: GPUs of this machine, or 1)"
    parser.add_argument("--ranks", type=int, metavar="N", help=ranks)
    memory = "memory of a rank's device in 10^9 bytes (default: that of the GPU here, else memory is not checked)"
    parser.add_argument("--device-memory", type=float, metavar="GB", help=memory)
    samples = f"samples of each split that are decoded (default {SAMPLES})"
    parser.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=samples)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    _add_folder_options(parser)
    arguments = parse(parser, argv)
    require_positive(arguments, "--ranks", "--samples", "--device-memory")
    found = _examine(arguments)
    print_result(as_tree(found) if arguments.json else as_text(found))
    return int(has_fault(found))


def _add_folder_options(parser: Parser) -> None:
    group = parser.add_argument_group("a raw dataset, before packing")
    folder = (
        "folder or zip file of images and labels in any layout that msanet pack knows; reads all of it, packs nothing"
    )
    group.add_argument("--folder", type=Path, metavar="DIR", help=folder)
    group.add_argument("--classes", type=Path, metavar="FILE", help="classes file, for layouts that need one")
    dataset = "layout of the folder, as msanet pack names it (default: whichever fits)"
    group.add_argument("--dataset", metavar="NAME", help=dataset)
    splits = "splits that are wanted (default: the usual ones)"
    group.add_argument("--splits", nargs="+", metavar="SPLIT", help=splits)
    group.add_argument("--out", type=Path, metavar="DIR", help=f"write {PAGE} here, a page with pictures")
    group.add_argument("--workers", type=at_least(1), metavar="N", help="processes to read with (default: one per CPU)")


def _examine(arguments: argparse.Namespace) -> list[Diagnostic]:
    if arguments.folder is None:
        require_folder([option for option in _OF_FOLDER if option_value(arguments, option) is not None])
        return examine_run(config_of(arguments), arguments.ranks, arguments.device_memory, arguments.samples)
    of_training = [option for option in _OF_TRAINING if option_value(arguments, option) is not None]
    require_alone([*of_training, *arguments.settings, *arguments.cfg_options, *options_as_settings(arguments)])
    names = [option.removeprefix("--") for option in _OF_FOLDER]
    return check_folder(folder_case(arguments.folder, **{name: getattr(arguments, name) for name in names}))
