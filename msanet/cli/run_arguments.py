"""What evaluate, predict, export and serve have in common: which run or checkpoint is meant, and its settings."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from msanet.api.settings import checkpoint_of_run, data_settings
from msanet.config import Config, load_config, load_run_config
from msanet.errors import UserError
from msanet.models.external import trust
from msanet.run_layout import CheckpointLayout, RunLayout


def add_run_arguments(parser: argparse.ArgumentParser, settings: bool = True) -> None:
    """--run RUN, with --best, or --checkpoint FILE; and `key=value` settings."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, metavar="RUN", help="run folder; its latest complete checkpoint is used")
    weights = "a model.safetensors, or the folder it is in; an exported .onnx or .xml too, but for export"
    which.add_argument("--checkpoint", type=Path, metavar="FILE", help=weights)
    best = "the checkpoint of --run with the best validation, not the latest"
    parser.add_argument("--best", action="store_true", help=best)
    add_plugin_argument(parser)
    if settings:
        help = "evaluation.* settings that override the run's"
        parser.add_argument("settings", nargs="*", metavar="key=value", help=help)


def add_plugin_argument(parser: argparse.ArgumentParser) -> None:
    """--plugin NAME, by which the user allows to import a checkpoint's network from a package or file."""
    text = "import this network or dataset of your own, package.module:NAME or path/to/file.py:NAME, if the run asks for it"
    parser.add_argument("--plugin", type=trust, action="append", metavar="NAME", help=text)


def run_config(arguments: argparse.Namespace, overrides: Sequence[str]) -> Config:
    """The settings of the run that those arguments mean, or the defaults. Raises UserError where there is none."""
    if arguments.checkpoint:
        if arguments.best:
            message = "--best is given with --checkpoint, expected it with --run RUN; remove it"
            raise UserError("MSA-CLI-006", message, setting="--best")
        return load_config(None, overrides)
    file = RunLayout(arguments.run).config
    if not file.is_file():
        message = f"'{arguments.run}' has no {file.name}, expected a run folder; give the run.dir of a training"
        raise UserError("MSA-CLI-004", message, setting="--run")
    return load_run_config(file, overrides)


def data_words(location: str | None) -> list[str]:
    """What --data says, as settings that replace the run's."""
    return [f"{name}={json.dumps(value)}" for name, value in data_settings(location).items()]


def find_checkpoint(arguments: argparse.Namespace) -> Path:
    """The file that those arguments mean. Verifies complete checkpoints, so one rank does it for all. Raises UserError."""
    if arguments.checkpoint:
        path: Path = arguments.checkpoint
        return path / CheckpointLayout.MODEL if path.is_dir() else path
    return checkpoint_of_run(arguments.run, arguments.best)
