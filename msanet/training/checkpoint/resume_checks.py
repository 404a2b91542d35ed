"""Whether a checkpoint can be resumed with these settings."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from msanet.data.shuffle_order import ShuffleConfig
from msanet.errors import UserError
from msanet.models.io import ModelMetadata
from msanet.training.checkpoint.io import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Difference:
    """Between a run and its sequel. kind: as in `run.allow_changes`. follows: what resuming anyway leads to."""

    kind: str
    what: str
    was: Any
    now: Any
    setting: str
    follows: str


def check_resume_compatible(
    saved: Checkpoint, plan: ShuffleConfig, fresh: ModelMetadata, optimizer: str, allow_changes: Collection[str] = ()
) -> None:
    """Refuse to resume what would not be the same run. Raises UserError that names the first difference.

    allow_changes: kinds of differences that are only logged; see `run.allow_changes`.
    """
    for found in _differences(saved, plan, fresh, optimizer):
        if found.was == found.now:
            continue
        differs = f"the checkpoint in run.dir has {found.what} {found.was}, this run has {found.now}"
        if found.kind not in allow_changes:
            raise UserError(
                "MSA-CKPT-005",
                f"{differs}; set {found.setting} back, choose another run.dir, or resume anyway with "
                f"run.allow_changes=[{','.join([*allow_changes, found.kind])}]",
                setting=found.setting,
            )
        logger.warning(f"{differs}: {found.follows}")
    if len(saved.metadata.classes) != len(fresh.classes):
        raise UserError(
            "MSA-CKPT-006",
            f"the network in run.dir has {len(saved.metadata.classes)} classes, this run's dataset has {len(fresh.classes)}, "
            "expected the same number; choose another run.dir",
            setting="data.path",
        )


def _differences(saved: Checkpoint, plan: ShuffleConfig, fresh: ModelMetadata, optimizer: str) -> list[_Difference]:
    """All that could differ, alike or not."""
    state, metadata = saved.state, saved.metadata
    was, now = (f"{one.dataset} {one.dataset_digest[:12]}" for one in (metadata, fresh))
    renamed = "" if metadata.classes == fresh.classes else ", whose classes have other names"
    at = f"the run resumes at sample {state.consumed_samples}"
    twice = f"{at} of another order, so of the current epoch samples may be seen twice or not at all"
    settings = "run.seed, data.shuffle_window, data.shuffle_block_bytes and data.drop_last"
    network, order = (metadata.name, metadata.options), replace(state.shuffle, streams=plan.streams)
    return [
        _Difference("dataset", "dataset", was, now, "data.path", f"{at} of the order of the new dataset{renamed}"),
        _Difference(
            "model",
            "network",
            network,
            (fresh.name, fresh.options),
            "the section model",
            "weights are taken by name, where all fit",
        ),
        _Difference(
            "normalization",
            "normalization (mean, std)",
            (metadata.mean, metadata.std),
            (fresh.mean, fresh.std),
            "data.mean and data.std",
            "the network sees other inputs than those it was trained on",
        ),
        _Difference(
            "optimizer", "optimizer", state.optimizer, optimizer, "optimizer.name", "its state starts from zero"
        ),
        _Difference("batch", "global batch", state.shuffle.streams, plan.streams, "trainer.global_batch_size", twice),
        _Difference("order", "sample order", order, plan, settings, twice),
    ]
