"""Whether a checkpoint and the settings of today make one run."""

import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from msanet import distributed
from msanet.data.shuffle_order import ShuffleConfig
from msanet.errors import UserError
from msanet.models.io import ModelMetadata
from msanet.training.checkpoint.io import Checkpoint


@dataclass(frozen=True)
class _Difference:
    """Between a run and its sequel. kind: as in `run.allow_changes`. follows: what comes of going on all the same."""

    kind: str
    what: str
    was: Any
    now: Any
    setting: str
    follows: str


def check_resume_compatible(
    saved: Checkpoint, plan: ShuffleConfig, fresh: ModelMetadata, optimizer: str, accept: Collection[str] = ()
) -> None:
    """Refuse to resume what would not be the same run. Raises UserError that names the first difference.

    accept: kinds of differences of which rank 0 only warns; see `run.allow_changes`.
    """
    for found in _differences(saved, plan, fresh, optimizer):
        if found.was == found.now:
            continue
        differs = f"the checkpoint in run.dir has {found.what} {found.was}, this run has {found.now}"
        if found.kind not in accept:
            raise UserError(
                f"{differs}; set {found.setting} back, start another run.dir, or go on all the same with "
                f"run.allow_changes=[{','.join([*accept, found.kind])}]"
            )
        if distributed.is_main():
            print(f"warning: {differs}: {found.follows}", file=sys.stderr, flush=True)
    if len(saved.metadata.classes) != len(fresh.classes):
        raise UserError(
            f"the network in run.dir knows {len(saved.metadata.classes)} classes, this run's dataset has {len(fresh.classes)}, "
            "expected as many; start another run.dir"
        )


def _differences(saved: Checkpoint, plan: ShuffleConfig, fresh: ModelMetadata, optimizer: str) -> list[_Difference]:
    """All that could differ, alike or not."""
    state, metadata = saved.state, saved.metadata
    was, now = (f"{one.dataset} {one.dataset_digest[:12]}" for one in (metadata, fresh))
    renamed = "" if metadata.classes == fresh.classes else ", whose classes have other names"
    at = f"the run goes on at sample {state.consumed_samples}"
    twice = f"{at} of another order, so of the current epoch samples may be seen twice or not at all"
    settings = "run.seed, data.shuffle_window, data.shuffle_block_bytes and data.drop_last"
    network, order = (metadata.name, metadata.options), replace(state.plan, streams=plan.streams)
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
        _Difference("optimizer", "optimizer", state.optimizer, optimizer, "optimizer.name", "its state starts anew"),
        _Difference("batch", "global batch", state.plan.streams, plan.streams, "trainer.global_batch_size", twice),
        _Difference("order", "sample order", order, plan, settings, twice),
    ]
