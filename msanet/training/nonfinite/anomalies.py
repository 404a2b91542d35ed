"""Steps that were skipped and losses far above what was expected: a warning and a line of RUN/anomalies.jsonl for each."""

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from msanet import distributed
from msanet.config import Config
from msanet.data.loader import BatchPlan, train_source
from msanet.data.manifest import Manifest
from msanet.data.mixed_order import SampleOrder
from msanet.data.pipeline import Batch
from msanet.data.sample_source import SampleSource
from msanet.distributed.rendezvous import list_ranks
from msanet.errors import UserError
from msanet.run_layout import RunLayout
from msanet.training.monitoring.jsonl import JsonlLogger
from msanet.training.nonfinite.guard import PendingStepStats, StepStats
from msanet.training.nonfinite.unlabeled import UnlabeledSteps

logger = logging.getLogger(__name__)

_WARM_UP = 50
"""Losses before the first is compared: those of the first steps fall too fast."""
_WINDOW = 50
"""Losses that the moving mean spans: each new one has the weight 1 / _WINDOW."""


@dataclass(frozen=True)
class StepRecord:
    """A step that was given to the device, and what it takes to repeat it.

    number: 1-based. start: position of its global batch in the shuffle order. batches: this rank's, in host memory.
    """

    number: int
    start: int
    stats: PendingStepStats
    batches: Sequence[Batch]
    counts_3: Tensor
    rng: dict[str, Tensor]


class LossSpikeDetector:
    """Exponential mean and variance of the loss (Finch 2009, "Incremental calculation of weighted mean and variance", section 9).

    deviations: how many standard deviations above the mean a spike is; 0: there are none. A spike enters mean and variance
    as if it lay on that bound, so that one does not hide the next, and a lasting change is still learned.
    """

    def __init__(self, deviations: float) -> None:
        self._deviations = deviations
        self._count, self.mean, self._variance = 0, 0.0, 0.0

    @property
    def deviation(self) -> float:
        return math.sqrt(self._variance)

    def is_spike(self, loss: float) -> bool:
        """Whether this loss is far above those before."""
        return bool(self._deviations) and self._count >= _WARM_UP and loss > self._bound

    def take(self, loss: float) -> None:
        """Update mean and variance by one loss, which is finite."""
        if self.is_spike(loss):
            loss = self._bound
        self._count += 1
        weight = max(1 / self._count, 1 / _WINDOW)
        change = loss - self.mean
        self.mean += weight * change
        self._variance = (1 - weight) * (self._variance + weight * change**2)

    @property
    def _bound(self) -> float:
        return self.mean + self._deviations * self.deviation


class AnomalyMonitor:
    """Counts anomalies since this start of the run; rank 0 logs them.

    A step is looked at when the next one is under way, so that no GPU waits. skipped: steps so far. in_a_row: the last of them
    without a break.
    """

    def __init__(self, config: Config, manifest: Manifest, order: SampleOrder, batches: BatchPlan) -> None:
        self.config, self.manifest, self.batches, self._order = config, manifest, batches, order
        self.skipped, self.in_a_row = 0, 0
        self._pending: deque[StepRecord] = deque()
        self._losses: list[float] = []
        self._spikes = LossSpikeDetector(config.trainer.loss_spike_std)
        self._writer = JsonlLogger()
        self._unlabeled = UnlabeledSteps(config.loss)

    def add(self, step: StepRecord) -> None:
        """A step that has been given to the device."""
        self._pending.append(step)
        self._unlabeled.add(step.counts_3)

    def drain(self, pending: int = 0) -> tuple[StepRecord, StepStats] | None:
        """Read the statistics of all but the last `pending` steps, which waits for the device.

        Returns:
            The step that was one too many to be skipped in a row, if any; the same on all ranks.
        """
        while len(self._pending) > pending:
            step = self._pending.popleft()
            stats = step.stats.read()
            if not stats.skipped:
                self.in_a_row = 0
                self._take_loss(step, self._loss(stats))
                continue
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            self._log_skipped(step, stats)
            if self.in_a_row > self.config.trainer.max_nonfinite_steps:
                return step, stats
        return None

    def mean_loss(self) -> float:
        """Of the steps since the last call that were not skipped; NaN if all were."""
        self._unlabeled.check()
        losses, self._losses = self._losses, []
        return math.fsum(losses) / len(losses) if losses else math.nan

    def samples(self, start: int, rank: int) -> list[dict[str, Any]]:
        """Epoch, number and key of the samples that a rank takes of the global batch at this position of the order."""
        epochs, numbers = self._order.samples(np.array(self.batches.share(start, rank), dtype=np.int64))
        pairs = zip(epochs.tolist(), numbers.tolist(), strict=True)
        return [{"epoch": epoch, "sample": number, "key": self._key(number)} for epoch, number in pairs]

    def _loss(self, stats: StepStats) -> float:
        """Of the global batch; ranks with the same images each have their loss."""
        return math.fsum(stats.losses) / self.batches.context_parallel_size

    def _take_loss(self, step: StepRecord, loss: float) -> None:
        self._losses.append(loss)
        if self._spikes.is_spike(loss):
            mean, deviation = self._spikes.mean, self._spikes.deviation
            details = {"loss": loss, "expected": mean, "deviation": deviation}
            remark = f"{mean:.4g} +- {deviation:.2g} was expected"
            self._log("spike", step, details, range(self.batches.world_size), f"has loss {loss:.4g}", remark)
        self._spikes.take(loss)

    def _log_skipped(self, step: StepRecord, stats: StepStats) -> None:
        ranks = nonfinite_ranks(stats)
        cause = f"the loss of {describe(ranks)} is not finite" if ranks else "the gradients are not finite"
        details = {
            "cause": "loss" if ranks else "gradients",
            "loss": None if ranks else self._loss(stats),
            "ranks": ranks,
            "in_a_row": self.in_a_row,
        }
        remark = f"{self.in_a_row} in a row of {self.config.trainer.max_nonfinite_steps} allowed"
        self._log("skipped", step, details, ranks or range(len(stats.losses)), f"is skipped: {cause}", remark)

    def _log(
        self, kind: str, step: StepRecord, details: dict[str, Any], ranks: Sequence[int], what: str, remark: str
    ) -> None:
        if not distributed.is_main():
            return
        samples = [sample for rank in self.batches.firsts(ranks) for sample in self.samples(step.start, rank)]
        if self.config.run.dir:
            line = {"kind": kind, "step": step.number, **details, "samples": samples}
            self._writer.add_line(RunLayout(self.config.run.dir).anomalies, line)
        keys = [str(sample["key"] or sample["sample"]) for sample in samples]
        shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        logger.warning(f"step {step.number} {what} ({shown}); {remark}")

    def _key(self, number: int) -> str | None:
        try:
            return self._source.key(number)
        except (UserError, OSError):  # the line is worth more than the key
            return None

    @cached_property
    def _source(self) -> SampleSource:
        return train_source(self.config, self.manifest)


def nonfinite_ranks(stats: StepStats) -> list[int]:
    """The ranks whose own loss is not finite; none if only gradients are not."""
    return [rank for rank, loss in enumerate(stats.losses) if not math.isfinite(loss)]


def describe(ranks: Sequence[int]) -> str:
    """`rank 1`, or `ranks 1, 3`."""
    return f"rank{'s' if len(ranks) > 1 else ''} {list_ranks(ranks)}"
