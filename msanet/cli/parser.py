"""What the commands of launcher/ share: the form of errors, and which checkpoint is meant."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msanet.config import Config, EvaluationConfig, load_config
from msanet.distributed import is_main
from msanet.errors import UserError
from msanet.evaluation.run_report import CONFIG_FILE
from msanet.models.io import ModelMetadata
from msanet.run_layout import CheckpointLayout
from msanet.training.checkpoint.io import best_valid, latest_valid


class Parser(argparse.ArgumentParser):
    """argparse, with errors in the form that all our errors have (one sentence, exit code 2)."""

    def error(self, message: str) -> Any:
        print(f"error: {message}; see --help", file=sys.stderr)
        raise SystemExit(2)


def new_parser(description: str, epilog: str | None = None) -> Parser:
    """A parser that accepts what the `deepspeed` launcher adds to a command line."""
    parser = Parser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # appended by `deepspeed`; RANK says the same
    return parser


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """--run RUN, with --best, or --checkpoint FILE."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, metavar="RUN", help="run folder; its newest whole checkpoint is used")
    which.add_argument("--checkpoint", type=Path, metavar="FILE", help="a model.safetensors, or the folder it lies in")
    parser.add_argument(
        "--best", action="store_true", help="the checkpoint of --run with the best validation, not the newest"
    )


def checkpoint_and_config(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple[Path, Config]:
    """The file that those arguments mean, and the settings of its run. Raises UserError where there is none."""
    config = run_config(arguments, overrides)
    return find_checkpoint(arguments), config


def run_config(arguments: argparse.Namespace, overrides: Sequence[str]) -> Config:
    """The settings of the run that those arguments mean, or the defaults. Raises UserError where there is none."""
    if arguments.checkpoint:
        if arguments.best:
            raise UserError("--best is given with --checkpoint, expected it with --run RUN; leave it out")
        return load_config(None, overrides)
    config_file = arguments.run / CONFIG_FILE
    if not config_file.is_file():
        raise UserError(
            f"'{arguments.run}' holds no {CONFIG_FILE}, expected a run folder; give the run.dir of a training"
        )
    return load_config(config_file, overrides)


def find_checkpoint(arguments: argparse.Namespace) -> Path:
    """The file that those arguments mean. Verifies whole checkpoints, so one rank does it for all. Raises UserError."""
    if arguments.checkpoint:
        path: Path = arguments.checkpoint
        return path / CheckpointLayout.MODEL if path.is_dir() else path
    checkpoints = arguments.run / "checkpoints"
    chosen = best_valid(checkpoints) if arguments.best else latest_valid(checkpoints)
    if chosen is None:
        raise UserError(
            f"'{arguments.run}' holds no whole checkpoint, expected at least one; let the training reach its first"
        )
    return chosen / CheckpointLayout.MODEL


def with_metadata_resize(settings: EvaluationConfig, metadata: ModelMetadata) -> EvaluationConfig:
    """With the metadata's size of the network's input where none is given; null is given, and means the image's own."""
    return (
        settings if "resize" in settings.model_fields_set else settings.model_copy(update={"resize": metadata.resize})
    )


def prints_for_all(sentence: str) -> bool:
    """For `user_errors`: before there is a process group, rank 0 speaks for all."""
    return is_main()
