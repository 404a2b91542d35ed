"""Settings of a training from what a program or a command line gives, and the checkpoint that is meant by a path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msanet.api.arguments import Data, PathLike
from msanet.config import Config, EvaluationConfig, load_config, load_run_config
from msanet.config.loading import PYTHON, nested
from msanet.config.text import FOLDER_PREFIX
from msanet.errors import UserError
from msanet.models import check_model
from msanet.models.io import ModelMetadata
from msanet.models.pretrained import absolute_weights
from msanet.run_layout import CheckpointLayout, RunLayout
from msanet.training.checkpoint.io import best_valid, latest_valid
from msanet.training.engine.other_optimizers import constructor_arguments


def training_config(
    config: PathLike | None, data: Data | None, dir: PathLike | None, settings: Mapping[str, Any]
) -> Config:
    """The run that the arguments of `msanet.train` ask for. Raises UserError."""
    given = dict(settings)
    if data is not None:
        paths = str(data) if isinstance(data, str | Path) else [*map(str, data)]
        given |= {"data": data} if isinstance(data, Mapping) else {"data.path": paths}
    if dir is not None:
        given["run.dir"] = dir
    return complete(load_config(config, extra=nested(given), origin=PYTHON))


def complete(config: Config) -> Config:
    """Checked as far as it can be without data, with absolute paths. Raises UserError."""
    for name, value in (("data.path", config.data.source or None), ("run.dir", config.run.dir)):
        if value is None:
            message = f"{name} is not set, expected a folder; set {name}=FOLDER"
            raise UserError("MSA-CLI-007", message, setting=name)
    check_model(config.model.name, config.model.options)
    constructor_arguments(config.optimizer)
    return _with_absolute_paths(config)


def is_run(folder: Path) -> bool:
    """Whether this is the folder of a run, and not of a checkpoint or exported weights."""
    return RunLayout(folder).checkpoints.is_dir()


def config_of(source: Path, settings: Mapping[str, Any]) -> Config:
    """The settings of a run, or the defaults where `source` is not one, with those of a Python program. Raises UserError."""
    if is_run(source):
        return load_run_config(RunLayout(source).config, extra=nested(settings))
    return load_config(None, extra=nested(settings), origin=PYTHON)


def data_settings(location: PathLike | None) -> dict[str, Any]:
    """The settings that put other data in place of a run's: shards, or `folder:DIR`."""
    if not location:
        return {}
    path: dict[str, Any] = {"data.path": str(location), "data.dataset": None}
    path |= {"data.sampling_weights": None, "data.val_path": None}
    return path if str(location).startswith(FOLDER_PREFIX) else {**path, "data.classes": None}


def find_checkpoint(source: Path, best: bool = False) -> Path:
    """The file of weights in a run folder, a folder with model.safetensors, or the file itself.

    Args:
        source: What the user means.
        best: Of a run the checkpoint with the best validation, not the latest.

    Raises:
        UserError: There is none. Checkpoints of a run are verified, which takes a while.
    """
    if is_run(source):
        return checkpoint_of_run(source, best)
    if not source.is_dir():
        return source
    if not (source / CheckpointLayout.MODEL).is_file():
        message = f"'{source}' has neither checkpoints of a run nor {CheckpointLayout.MODEL}"
        raise UserError("MSA-API-001", f"{message}; give the run.dir of a training, or a folder or file of weights")
    return source / CheckpointLayout.MODEL


def checkpoint_of_run(run: Path, best: bool) -> Path:
    """The weights of a run's latest complete checkpoint, or of its best one. Raises UserError."""
    checkpoints = RunLayout(run).checkpoints
    chosen = best_valid(checkpoints) if best else latest_valid(checkpoints)
    if chosen is None:
        message = f"'{run}' has no complete checkpoint, expected at least one; train until the first is saved"
        raise UserError("MSA-CLI-005", message, setting="--run")
    return chosen / CheckpointLayout.MODEL


def with_metadata_resize(settings: EvaluationConfig, metadata: ModelMetadata) -> EvaluationConfig:
    """With the metadata's size of the network's input where none is given; null is given, and means the image's own."""
    is_given = "resize" in settings.model_fields_set
    return settings if is_given else settings.model_copy(update={"resize": metadata.resize})


def _with_absolute_paths(config: Config) -> Config:
    """So that RUN/config.yaml means the same wherever evaluate and predict are started."""
    data, folder = config.data.with_absolute_paths(), config.run.dir or Path()
    run = config.run.model_copy(update={"dir": folder.resolve()})
    model = config.model
    if model.pretrained:
        start = absolute_weights(model.name, model.options, model.pretrained)
        model = model.model_copy(update={"pretrained": start})
    return config.model_copy(update={"data": data, "run": run, "model": model})
