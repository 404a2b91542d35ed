"""The command lines of launcher/: flags, dotted settings, and a --help that lists every setting."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from msanet.config import Config, EvaluationConfig, StorageConfig, load_config, settings
from msanet.data.codec import IMAGE_EXTENSIONS
from msanet.distributed import is_main
from msanet.errors import UserError, user_errors
from msanet.evaluation.report import CONFIG_FILE
from msanet.models import MODELS, check_model_options, describe, model_options
from msanet.training.checkpoint import MODEL_FILE, newest_whole


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


def train_config(description: str, argv: Sequence[str] | None = None) -> Config:
    """The run that a command line asks for, checked as far as it can be without data. Ends with exit code 2 on errors."""
    parser = new_parser(description, epilog=_settings_help())
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings (see jobs/recipes)")
    parser.add_argument(
        "--deepspeed_config", type=Path, metavar="FILE", help="DeepSpeed's JSON, merged under deepspeed:"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that override the file's")
    arguments = parser.parse_args(argv)
    with user_errors(may_speak=_is_main):
        extra = {"deepspeed": _read_json(arguments.deepspeed_config)} if arguments.deepspeed_config else None
        config = load_config(arguments.config, arguments.settings, extra)
        for name, value in (("data.path", config.data.path), ("run.dir", config.run.dir)):
            if value is None:
                raise UserError(f"{name} is not set, expected a folder; give it on the command line: {name}=FOLDER")
        check_model_options(config.model.name, config.model.options)
        return _with_absolute_paths(config)


@dataclass(frozen=True)
class EvaluationJob:
    """What evaluate.py is asked for. out: the folder that gets evaluation-<split>.json and report.html."""

    checkpoint: Path
    shards: str
    split: str
    out: Path
    settings: EvaluationConfig
    storage: StorageConfig
    timeout: float


@dataclass(frozen=True)
class PredictionJob:
    """What predict.py is asked for. images: (file, name without extension under `out`)."""

    checkpoint: Path
    images: tuple[tuple[Path, Path], ...]
    out: Path
    precision: str


def evaluation_job(description: str, argv: Sequence[str]) -> EvaluationJob:
    """Read evaluate.py's command line. Ends with exit code 2 on errors."""
    parser = new_parser(description)
    _add_checkpoint_arguments(parser)
    parser.add_argument("--data", metavar="SHARDS", help="folder or address of shards; the run's own unless given")
    parser.add_argument("--split", help="split to judge on; the run's validation split unless given")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write; the run, or the checkpoint's folder"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="evaluation.* settings that override the run's"
    )
    arguments = parser.parse_args(argv)
    with user_errors(may_speak=_is_main):
        checkpoint, config = _checkpoint_and_config(arguments, arguments.settings)
        shards = arguments.data or config.data.path
        if shards is None:
            raise UserError("--data is not given, expected a folder of shards with --checkpoint; add --data SHARDS")
        return EvaluationJob(
            checkpoint,
            shards,
            arguments.split or config.data.val_split,
            arguments.out or arguments.run or checkpoint.parent,
            config.evaluation,
            config.storage,
            config.run.timeout,
        )


def prediction_job(description: str, argv: Sequence[str]) -> PredictionJob:
    """Read predict.py's command line and find its images. Raises UserError where there are none."""
    parser = new_parser(description)
    _add_checkpoint_arguments(parser)
    parser.add_argument(
        "--images", type=Path, nargs="+", required=True, metavar="PATH", help="image files or folders of them"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where masks and overlays go")
    arguments = parser.parse_args(argv)
    checkpoint, config = _checkpoint_and_config(arguments, ())
    return PredictionJob(checkpoint, _find_images(arguments.images), arguments.out, config.evaluation.precision)


def _add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, metavar="RUN", help="run folder; its newest whole checkpoint is used")
    which.add_argument("--checkpoint", type=Path, metavar="FILE", help="a model.safetensors, or the folder it lies in")


def _checkpoint_and_config(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple[Path, Config]:
    if arguments.checkpoint:
        path = arguments.checkpoint
        return (path / MODEL_FILE if path.is_dir() else path), load_config(None, overrides)
    config_file = arguments.run / CONFIG_FILE
    if not config_file.is_file():
        raise UserError(
            f"'{arguments.run}' holds no {CONFIG_FILE}, expected a run folder; give the run.dir of a training"
        )
    newest = newest_whole(arguments.run / "checkpoints")
    if newest is None:
        raise UserError(
            f"'{arguments.run}' holds no whole checkpoint, expected at least one; let the training reach its first"
        )
    return newest / MODEL_FILE, load_config(config_file, overrides)


def _find_images(paths: Sequence[Path]) -> tuple[tuple[Path, Path], ...]:
    """Files as they are, folders searched in depth; names keep the folders below the one that was given."""
    found: dict[Path, Path] = {}  # name -> file
    for path in paths:
        if not path.exists():
            raise UserError(f"'{path}' is not there, expected an image or a folder of images; check --images")
        files = sorted(file for file in path.rglob("*") if _is_image(file)) if path.is_dir() else [path]
        for file in files:
            name = (file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix("")
            if found.setdefault(name, file) != file:
                raise UserError(
                    f"'{found[name]}' and '{file}' would both be written as '{name}'; predict them into two folders"
                )
    if not found:
        raise UserError(
            f"'{paths[0]}' holds no images, expected files ending in {', '.join(IMAGE_EXTENSIONS)}; check --images"
        )
    return tuple((file, name) for name, file in found.items())


def _is_image(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS and path.is_file()


def _is_main(sentence: str) -> bool:
    return is_main()


def _with_absolute_paths(config: Config) -> Config:
    """So that RUN/config.yaml means the same wherever evaluate and predict are started."""
    path, folder = config.data.path or "", config.run.dir or Path()
    data = config.data if "://" in path else config.data.model_copy(update={"path": str(Path(path).resolve())})
    return config.model_copy(update={"data": data, "run": config.run.model_copy(update={"dir": folder.resolve()})})


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"--deepspeed_config '{path}' is not there, expected a JSON file; check the path")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"--deepspeed_config '{path}' is no JSON ({error}); correct it") from None
    if not isinstance(tree, dict):
        raise UserError(f"--deepspeed_config '{path}' holds a {type(tree).__name__}, expected an object of settings")
    return tree


def _settings_help() -> str:
    lines = ["settings (key=value on the command line, or sections of the YAML file):", ""]
    for name, kind, default, text in settings():
        lines += [f"  {name}={_shown(default)}", f"      {text} [{kind}]"]
    lines += ["", "options of the networks (model.name):", ""]
    for network in sorted(MODELS):
        for option, (kind, default) in model_options(network).items():
            lines.append(f"  model.{option}={_shown(default)}  ({network}) [{describe(kind)}]")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).strip()
    return text.removesuffix("...").strip().replace(" ", "")
