"""The command line of launcher/train.py: dotted settings, and a --help that lists every one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from msanet.cli.parser import new_parser, prints_for_all
from msanet.config import Config, load_config, settings
from msanet.documents import MAX_BYTES, parse_json
from msanet.errors import UserError, user_errors
from msanet.models import MODELS, check_model, describe, model_options


def train_config(description: str, argv: Sequence[str] | None = None) -> Config:
    """The run that a command line asks for, checked as far as it can be without data. Ends with exit code 2 on errors."""
    parser = new_parser(description, epilog=_settings_help())
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings (see jobs/recipes)")
    parser.add_argument(
        "--deepspeed_config", type=Path, metavar="FILE", help="DeepSpeed's JSON, merged under deepspeed:"
    )
    parser.add_argument("--profile", action="store_true", help="run.profile=true: where the time of a step goes")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that override the file's")
    arguments = parser.parse_intermixed_args(argv)
    with user_errors(should_print=prints_for_all):
        extra = {"deepspeed": _read_json(arguments.deepspeed_config)} if arguments.deepspeed_config else None
        flags = ["run.profile=true"] if arguments.profile else []
        config = load_config(arguments.config, [*arguments.settings, *flags], extra)
        for name, value in (("data.path", config.data.path), ("run.dir", config.run.dir)):
            if value is None:
                raise UserError(f"{name} is not set, expected a folder; give it on the command line: {name}=FOLDER")
        check_model(config.model.name, config.model.options)
        return _with_absolute_paths(config)


def _with_absolute_paths(config: Config) -> Config:
    """So that RUN/config.yaml means the same wherever evaluate and predict are started."""
    path, folder = config.data.path or "", config.run.dir or Path()
    data = config.data if "://" in path else config.data.model_copy(update={"path": str(Path(path).resolve())})
    run = config.run.model_copy(update={"dir": folder.resolve()})
    start = config.model.pretrained
    model = config.model.model_copy(update={"pretrained": start.resolve()}) if start else config.model
    return config.model_copy(update={"data": data, "run": run, "model": model})


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"--deepspeed_config '{path}' is not there, expected a JSON file; check the path")
    try:
        with path.open("rb") as file:
            tree = parse_json(file.read(MAX_BYTES + 1))
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
