"""`msanet train`: settings from a recipe or a YAML file and the command line, and a --help that lists every one."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msanet.api.settings import complete
from msanet.api.training import train_and_exit
from msanet.cli.parser import Parser, new_parser, option_value, parse
from msanet.config import Config, load_config
from msanet.config.loading import as_typed, help_lines
from msanet.documents import MAX_BYTES, parse_json
from msanet.errors import UserError
from msanet.models import MODELS, describe, model_options

_SHORTCUTS = {
    "--work-dir": ("run.dir", "DIR"),
    "--epochs": ("trainer.epochs", "N"),
    "--batch-size": ("trainer.global_batch_size", "N"),
    "--lr": ("optimizer.lr", "RATE"),
}
"""Options that other training programs have -> the setting that they stand for, and what follows them."""
_FLAGS = {"--resume": "run.resume=must", "--amp": "trainer.precision=bf16", "--profile": "run.profile=true"}
_DETAILS = """\
On several GPUs: deepspeed --module msanet train --config camvid data.path=SHARDS run.dir=RUN
From images and labels that are not packed: msanet train --config camvid data.path=folder:DIR run.dir=RUN
On several datasets: msanet train --config camvid data.path=[SHARDS,SHARDS2] data.label_scheme=street.yaml run.dir=RUN
The same command again resumes. A signal (SIGTERM, SIGUSR1, SIGHUP, Ctrl-C) makes a run save and end with exit code 75.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; every rank does. Returns its exit code."""
    train_and_exit(train_config(argv))


def train_config(argv: Sequence[str] | None = None) -> Config:
    """The run that a command line asks for, checked as far as it can be without data. Raises UserError."""
    parser = new_parser("train", "train --config camvid data.path=SHARDS run.dir=RUN", _DETAILS + _settings_help())
    add_training_arguments(parser)
    return config_of(parse(parser, argv))


def add_training_arguments(parser: Parser) -> None:
    """The options and settings of a training."""
    config = "YAML file of settings, or the name of a recipe (msanet recipes)"
    parser.add_argument("--config", metavar="FILE", help=config)
    deepspeed = "DeepSpeed's JSON, merged under deepspeed:"
    parser.add_argument("--deepspeed_config", type=Path, metavar="FILE", help=deepspeed)
    for option, setting in _FLAGS.items():
        parser.add_argument(option, action="store_true", help=f"the same as {setting}")
    for option, (setting, value) in _SHORTCUTS.items():
        parser.add_argument(option, metavar=value, help=f"the same as {setting}={value}")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="key=value", help="the same as key=value")
    words = "settings that override the file's; a first word without = is taken for --config"
    parser.add_argument("settings", nargs="*", metavar="key=value", help=words)


def config_of(arguments: argparse.Namespace) -> Config:
    """What `add_training_arguments` and a command line come to, checked as far as it can be without data. Raises UserError."""
    words, file = list(arguments.settings), arguments.config
    if file is None and words and "=" not in words[0]:
        file = words.pop(0)
    words += [*arguments.cfg_options, *options_as_settings(arguments)]
    extra = {"deepspeed": _read_json(arguments.deepspeed_config)} if arguments.deepspeed_config else None
    return complete(load_config(file, words, extra))


def options_as_settings(arguments: argparse.Namespace) -> list[str]:
    """The settings that options such as --epochs stand for."""
    words = [setting for option, setting in _FLAGS.items() if option_value(arguments, option)]
    for option, (setting, _) in _SHORTCUTS.items():
        value = option_value(arguments, option)
        if value is not None:  # a folder may be called 1e3
            words.append(f"{setting}={json.dumps(value) if setting == 'run.dir' else value}")
    return words


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            tree = parse_json(file.read(MAX_BYTES + 1))
    except FileNotFoundError:
        found = "does not exist"
    except ValueError as error:
        found = f"is not valid JSON ({error})"
    else:
        if isinstance(tree, dict):
            return tree
        found = f"has a {type(tree).__name__}"
    message = f"--deepspeed_config '{path}' {found}, expected a JSON object of settings; fix the path or the file"
    raise UserError("MSA-CLI-011", message, setting="--deepspeed_config")


def _settings_help() -> str:
    lines = ["settings (key=value on the command line, or sections of the YAML file):", "", *help_lines()]
    lines += ["", "options of the networks (model.name):", ""]
    for network in sorted(MODELS):
        for option, (kind, default) in model_options(network).items():
            lines.append(f"  model.{option}={as_typed(default)}  ({network}) [{describe(kind)}]")
    return "\n".join(lines)
