"""What a checkpoint holds, and the version of its format."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from msanet.data.shuffle_order import ShuffleConfig
from msanet.models.io import ModelMetadata
from msanet.training.engine.loss_scaling import LossScale
from msanet.training.engine.zero_state import OptimizerState

FORMAT_VERSION = 2
"""Of state.json. 1: without `format_version` in it, written by msanet 0.1 up to November 2026; still read."""


class Best(BaseModel):
    """The best validation so far. mean_iou: 0..1. conditions: what else it depends on, see `training.best`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    mean_iou: float
    conditions: dict[str, str] = {}


class EarlyStopping(BaseModel):
    """Where early stopping stands: the best value of its metric, and how many validations have passed since."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    best: float | None = None
    validations_since: int = 0


class RunState(BaseModel):
    """state.json: the `TrainState`, and the run that it belongs to.

    total_steps: of the whole run, as it was configured then. micro_batch_size: None in checkpoints from before it was kept.
    initial_weights: the file of model.pretrained, or `random`; empty in checkpoints from before it was kept.
    optimizer: its name and options. frozen: the patterns of `model.freeze`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = FORMAT_VERSION
    step: int
    consumed_samples: int
    total_steps: int
    shuffle: ShuffleConfig
    world_size: int
    dataset: str
    dataset_digest: str
    optimizer: str
    versions: dict[str, str]
    best: Best | None = None
    validation_pending: bool = False
    micro_batch_size: int | None = None
    initial_weights: str = ""
    frozen: tuple[str, ...] = ()
    early_stopping: EarlyStopping | None = None
    loss_scale: LossScale | None = None

    @model_validator(mode="before")
    @classmethod
    def _migrate(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        version = tree.get("format_version", 1 if "plan" in tree else FORMAT_VERSION)
        if isinstance(version, int) and version > FORMAT_VERSION:
            written_by = (tree.get("versions") or {}).get("msanet", "unknown")
            raise ValueError(
                f"format version {version}, written by msanet {written_by}, expected {FORMAT_VERSION} or less"
            )
        if version != 1:
            return tree
        renamed = {_RENAMED_IN_2.get(key, key): value for key, value in tree.items()}
        if isinstance(renamed.get("shuffle"), dict):
            shuffle = renamed["shuffle"].items()
            renamed["shuffle"] = {_SHUFFLE_RENAMED_IN_2.get(key, key): value for key, value in shuffle}
        return {**renamed, "format_version": FORMAT_VERSION}


_RENAMED_IN_2 = {
    "consumed": "consumed_samples",
    "plan": "shuffle",
    "owes_validation": "validation_pending",
    "micro_batch": "micro_batch_size",
}
_SHUFFLE_RENAMED_IN_2 = {
    "lanes": "streams",
    "window": "shuffle_window",
    "block_bytes": "shuffle_block_bytes",
    "drop": "drop_last",
}


@dataclass(frozen=True)
class Checkpoint:
    """All that a checkpoint holds, as full tensors.

    Args:
        weights: Parameters and buffers by name, as the optimizer has them.
        rng: See `gather_rng`.
        ema: The weights' EMA, if the run keeps one; then it is what evaluate and predict load.
        buffers: See `gather_buffers`.
        config: The run's settings as YAML, for people; not read again.
    """

    state: RunState
    metadata: ModelMetadata
    weights: dict[str, Tensor]
    optimizer: OptimizerState
    rng: dict[str, Tensor]
    ema: dict[str, Tensor] | None = None
    buffers: dict[str, Tensor] = field(default_factory=dict)
    config: str = ""
