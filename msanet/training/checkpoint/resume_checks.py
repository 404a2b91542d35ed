"""Whether a checkpoint can be resumed with these settings."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any

from msanet.data.shuffle_order import ShuffleConfig
from msanet.errors import UserError
from msanet.models.io import ModelMetadata
from msanet.training.checkpoint.io import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Difference:
    """What may differ between a checkpoint and this run. kind: as in `run.allow_changes`. consequence: of resuming anyway."""

    kind: str
    what: str
    values: tuple[Any, ...]
    setting: str
    consequence: str


def check_resume_compatible(
    saved: Checkpoint,
    shuffle: ShuffleConfig,
    now: ModelMetadata,
    optimizer: str,
    allow_changes: Collection[str] = (),
    frozen: tuple[str, ...] = (),
) -> None:
    """Refuse to resume a different run: raises UserError that names the first difference. allow_changes: kinds only logged."""
    for found in _differences(saved, shuffle, now, optimizer, frozen):
        before, after = found.values
        if before == after:
            continue
        differs = f"the checkpoint in run.dir has {found.what} {before}, this run has {after}"
        if found.kind not in allow_changes:
            raise UserError(
                "MSA-CKPT-005",
                f"{differs}; set {found.setting} back, choose another run.dir, or resume anyway with "
                f"run.allow_changes=[{','.join([*allow_changes, found.kind])}]",
                setting=found.setting,
            )
        logger.warning(f"{differs}: {found.consequence}")
    if len(saved.metadata.classes) != len(now.classes):
        raise UserError(
            "MSA-CKPT-006",
            f"the network in run.dir has {len(saved.metadata.classes)} classes, this run's dataset has {len(now.classes)}, "
            "expected the same number; choose another run.dir",
            setting="data.path",
        )


def _differences(
    saved: Checkpoint, shuffle: ShuffleConfig, now: ModelMetadata, optimizer: str, frozen: tuple[str, ...]
) -> list[_Difference]:
    """All that may differ, whether it does or not."""
    state, was = saved.state, saved.metadata
    datasets = (f"{one.dataset} {one.dataset_digest[:12]}" for one in (was, now))
    networks = ((one.name, one.options) for one in (was, now))
    inputs = ((one.mean, one.std) for one in (was, now))
    order, orders = _changed_order(replace(state.shuffle, streams=shuffle.streams), shuffle)
    renamed = "" if was.classes == now.classes else ", with different class names"
    at = f"the run resumes at sample {state.consumed_samples}"
    dataset = f"{at} of the order of the new dataset{renamed}"
    twice = f"{at} of another order, so of the current epoch samples may be seen twice or not at all"
    weights, moments = "weights are taken by name, where all fit", "its state starts from zero"
    unlike = "the network gets other inputs than those it was trained on"
    batches = (state.shuffle.streams, shuffle.streams)
    return [
        _Difference("dataset", "dataset", tuple(datasets), "data.path", dataset),
        _Difference("model", "network", tuple(networks), "the section model", weights),
        _Difference("normalization", "normalization (mean, std)", tuple(inputs), "data.mean and data.std", unlike),
        _Difference("optimizer", "optimizer", (state.optimizer, optimizer), "optimizer.name", moments),
        _Difference("optimizer", "frozen", (list(state.frozen), list(frozen)), "model.freeze", moments),
        _Difference("batch", "global batch", batches, "trainer.global_batch_size", twice),
        _Difference("order", "sample order", orders, order, twice),
    ]


def _changed_order(was: ShuffleConfig, now: ShuffleConfig) -> tuple[str, tuple[str, ...]]:
    """The settings of the order that differ, and their values before and after."""
    names = [field.name for field in fields(ShuffleConfig) if getattr(was, field.name) != getattr(now, field.name)]
    values = (", ".join(f"{name}={_plain(getattr(one, name))}" for name in names) for one in (was, now))
    return " and ".join("run.seed" if name == "seed" else f"data.{name}" for name in names), tuple(values)


def _plain(value: object) -> object:
    return (list(value) or None) if isinstance(value, tuple) else value
