"""What is needed to repeat a step that went wrong, on one process: RUN/failure_dump/step-N, complete or absent.

failure_dump.json       which step, what was found, which ranks' micro-batches are here, their samples, versions
config.yaml             the run's settings
model.safetensors       weights and buffers from before the step, and the model metadata
rank-R.safetensors      that rank's micro-batches as the loader gave them, and torch's generators before its forward pass
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from msanet import distributed, versions
from msanet.config import Config, load_run_config
from msanet.data.pipeline import Batch
from msanet.errors import UserError
from msanet.files import write_text
from msanet.models.io import ModelMetadata, load_weights, save_network
from msanet.run_layout import CheckpointLayout, RunLayout
from msanet.training.checkpoint.io import atomic_folder
from msanet.training.engine import zero_state
from msanet.training.nonfinite.anomalies import AnomalyMonitor, StepRecord, describe, nonfinite_ranks
from msanet.training.nonfinite.guard import StepStats

_ABOUT = "failure_dump.json"
BATCH_TENSORS = ("images_NHWC", "labels_NHW", "jitter_N3", "epochs_N", "samples_N")
Sample = tuple[int, int, str | None]
"""Epoch, number in the split, and key where it is known."""


class DumpMetadata(BaseModel):
    """failure_dump.json.

    Args:
        losses: Each rank's share of the loss, null where it is not finite.
        accumulation: Micro-batches of each rank.
        counts: The loss's counts of the global batch.
        histogram: Labeled pixels per class of the training split.
        keys: Of the samples of each rank that is kept, in order; null where not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[2] = 2
    step: int
    losses: tuple[float | None, ...]
    accumulation: int
    counts: tuple[float, ...]
    histogram: tuple[int, ...]
    keys: dict[int, tuple[str | None, ...]]
    versions: dict[str, str]

    @property
    def faulty(self) -> list[int]:
        """Ranks whose own loss was not finite; none where only gradients were not."""
        return [rank for rank, loss in enumerate(self.losses) if loss is None]


@dataclass(frozen=True)
class RankBatches:
    """The input of one rank's step. rng: `cpu`, and `cuda` on a GPU."""

    batches: tuple[Batch, ...]
    rng: dict[str, Tensor]


@dataclass(frozen=True)
class FailureDump:
    """All that RUN/failure_dump/step-N holds. records: by rank."""

    about: DumpMetadata
    config: Config
    metadata: ModelMetadata
    weights: dict[str, Tensor]
    records: dict[int, RankBatches]

    def samples(self, rank: int) -> list[Sample]:
        """Those of a rank, in order."""
        batches = self.records[rank].batches
        epochs, numbers = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("epochs_N", "samples_N"))
        return list(zip(epochs.tolist(), numbers.tolist(), self.about.keys[rank], strict=True))


def dump_and_raise(
    step: StepRecord, stats: StepStats, run: AnomalyMonitor, engine: Any, metadata: ModelMetadata
) -> NoReturn:
    """Write a failure dump of the step that was one too many to be skipped, and raise a UserError. A collective.

    The engine still has the weights from before the step: see `NonFiniteGuard`.
    """
    config, faulty = run.config, nonfinite_ranks(stats)
    everyone = range(distributed.world_size())
    ranks = run.batches.firsts(faulty if faulty and not config.trainer.sync_batchnorm else everyone)
    records = _gather_records(RankBatches(tuple(step.batches), step.rng), ranks)
    weights = zero_state.gather_weights(engine)

    def write() -> str:
        if config.run.dir is None:
            return "no failure dump is written, since run.dir is not set"
        about = DumpMetadata(
            step=step.number,
            losses=tuple(loss if math.isfinite(loss) else None for loss in stats.losses),
            accumulation=len(step.batches),
            counts=tuple(step.counts_3.tolist()),
            histogram=tuple(run.manifest.split(config.data.train_split).histogram),
            keys={rank: tuple(sample["key"] for sample in run.samples(step.start, rank)) for rank in ranks},
            versions=versions("msanet", "torch", "deepspeed", "numpy"),
        )
        before = metadata.model_copy(update={"step": step.number - 1})
        try:
            path = write_failure_dump(config.run.dir, FailureDump(about, config, before, weights, records))
        except OSError as error:
            return f"its failure dump could not be written ({error}); free some space,"
        return f"find where with: msanet replay {path}; fix what it finds,"

    left = distributed.on_main(write)
    found = f"the loss of {describe(faulty)}" if faulty else "the gradients"
    raise UserError(
        "MSA-TRAIN-002",
        f"{run.in_a_row} steps in a row, up to step {step.number}, had a loss or gradients that are not finite (last {found}), "
        f"expected at most trainer.max_nonfinite_steps={config.trainer.max_nonfinite_steps}; {left} "
        "or lower optimizer.lr, then run the same command again to resume from the last checkpoint",
        setting="trainer.max_nonfinite_steps",
    )


def _gather_records(record: RankBatches, ranks: Sequence[int]) -> dict[int, RankBatches]:
    """The records of these ranks, on rank 0; nothing on the others. A collective."""
    if distributed.world_size() == 1:
        return {0: record}
    everyone: list[Any] | None = [None] * distributed.world_size() if distributed.is_main() else None
    dist.gather_object(record if distributed.rank() in ranks else None, everyone, dst=0)
    return {rank: kept for rank, kept in enumerate(everyone or ()) if kept is not None}


def write_failure_dump(run: Path, dump: FailureDump) -> Path:
    """Write RUN/failure_dump/step-N. For one rank only. Raises OSError if it cannot be written; then nothing is left of it."""
    final = RunLayout(run).failure_dump(dump.about.step)
    with atomic_folder(final) as part:
        save_network(part / CheckpointLayout.MODEL, dump.weights, dump.metadata)
        write_text(RunLayout(part).config, dump.config.to_yaml())
        for rank, record in dump.records.items():
            save_file(_tensors(record), part / _rank_file(rank))
        write_text(part / _ABOUT, dump.about.model_dump_json(indent=1) + "\n")
    return final


def read_failure_dump(folder: Path) -> FailureDump:
    """Raises UserError if it is missing, damaged or not one of ours."""
    path = folder / _ABOUT
    if (folder / "blackbox.json").is_file():  # format version 1
        raise UserError(
            "MSA-TRAIN-012",
            f"'{folder}' was written by msanet 0.1 before failure dumps had a format_version, expected version 2; replay it with "
            "the version of msanet that wrote it",
        )
    if not path.is_file():
        raise UserError(
            "MSA-TRAIN-003",
            f"'{folder}' holds no {_ABOUT}, expected a failure dump; give RUN/failure_dump/step-N of a run",
        )
    try:
        about = DumpMetadata.model_validate_json(path.read_bytes())
        records = {rank: _record(folder / _rank_file(rank), about.accumulation) for rank in about.keys}
    except (ValidationError, SafetensorError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            "MSA-TRAIN-004", f"the failure dump '{folder}' is damaged ({reason}) and cannot be replayed; use another"
        ) from None
    weights, metadata = load_weights(folder / CheckpointLayout.MODEL)
    return FailureDump(about, load_run_config(RunLayout(folder).config), metadata, weights, records)


def _tensors(record: RankBatches) -> dict[str, Tensor]:
    tensors = {
        f"{number}.{name}": getattr(batch, name).contiguous()
        for number, batch in enumerate(record.batches)
        for name in BATCH_TENSORS
    }
    return tensors | {f"rng.{kind}": state for kind, state in record.rng.items()}


def _record(path: Path, accumulation: int) -> RankBatches:
    tensors = load_file(path)
    batches = tuple(
        Batch(*(tensors[f"{number}.{name}"] for name in BATCH_TENSORS))  # type: ignore[arg-type]
        for number in range(accumulation)
    )
    rng = {name.removeprefix("rng."): state for name, state in tensors.items() if name.startswith("rng.")}
    return RankBatches(batches, rng)


def _rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"
