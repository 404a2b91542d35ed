"""What went wrong with a run's numbers: steps that were skipped, and losses far above what was expected.

RUN/anomalies.jsonl has a line for each, with the samples of that step. Everything here is told of a step when the next
is under way already, so that no GPU waits.
"""

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
from msanet.data.pipeline import Batch
from msanet.data.shard_source import ShardSource
from msanet.data.shuffle_order import ShuffleOrder
from msanet.distributed.rendezvous import listed
from msanet.errors import UserError
from msanet.run_layout import RunLayout
from msanet.training.monitoring.jsonl import JsonlLogger
from msanet.training.nonfinite.guard import PendingStepStats, StepStats
from msanet.training.nonfinite.unlabeled import UnlabeledSteps

logger = logging.getLogger(__name__)

_WARM_UP = 50
"""Losses before the first is compared: the first steps of a run are no measure."""
_WINDOW = 50
"""Losses that the moving mean spans: each new one has the weight 1 / _WINDOW."""


@dataclass(frozen=True)
class StepRecord:
    """A step that was given to the device, and what it takes to do it again.

    number: 1-based. start: position of its global batch in the order. batches: this rank's micro-batches, in host memory.
    counts_2: the loss's counts of the global batch. rng: torch's generators before the first forward.
    """

    number: int
    start: int
    figures: PendingStepStats
    batches: Sequence[Batch]
    counts_2: Tensor
    rng: dict[str, Tensor]


class LossSpikeDetector:
    """Exponential mean and variance of the loss (Finch 2009, "Incremental calculation of weighted mean and variance", section 9).

    deviations: how many standard deviations above the mean a spike is; 0: there are none. A spike enters mean and variance
    as if it lay on that bound, so that one hides no other, and a lasting change is still learnt.
    """

    def __init__(self, deviations: float) -> None:
        self._deviations = deviations
        self._count, self.mean, self._variance = 0, 0.0, 0.0

    @property
    def deviation(self) -> float:
        return math.sqrt(self._variance)

    def is_spike(self, loss: float) -> bool:
        """Whether this loss is one, judged by those taken in before."""
        if not self._deviations or self._count < _WARM_UP:
            return False
        return loss > self.mean + self._deviations * self.deviation

    def take(self, loss: float) -> None:
        """Move on by one loss, which is finite."""
        if self.is_spike(loss):
            loss = self.mean + self._deviations * self.deviation
        self._count += 1
        weight = max(1 / self._count, 1 / _WINDOW)
        change = loss - self.mean
        self.mean += weight * change
        self._variance = (1 - weight) * (self._variance + weight * change**2)


class AnomalyMonitor:
    """Counts, warns and notes; rank 0 speaks and writes. All counts are since this start of the run.

    skipped: steps so far. in_a_row: the last of them without a break.
    """

    def __init__(self, config: Config, manifest: Manifest, order: ShuffleOrder, batches: BatchPlan) -> None:
        self.config, self.manifest, self.batches, self._order = config, manifest, batches, order
        self.skipped, self.in_a_row = 0, 0
        self._pending: deque[StepRecord] = deque()
        self._loss_sum, self._steps_in_sum = 0.0, 0
        self._trend = LossSpikeDetector(config.trainer.loss_spike_std)
        self._writer = JsonlLogger()
        self._unlabeled = UnlabeledSteps(config.loss)

    def add(self, step: StepRecord) -> None:
        """A step that has been given to the device."""
        self._pending.append(step)
        self._unlabeled.add(step.counts_2)

    def drain(self, pending: int = 0) -> tuple[StepRecord, StepStats] | None:
        """Hear what all but the last `pending` steps came to; the step that was one too many to be skipped in a row, if any.

        Waits for the device. The answer is the same on all ranks.
        """
        while len(self._pending) > pending:
            step = self._pending.popleft()
            figures = step.figures.read()
            if self._take(step, figures):
                return step, figures
        return None

    def _take(self, step: StepRecord, figures: StepStats) -> bool:
        """Take in what a step came to; whether the run must stop."""
        if figures.skipped:
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            self._note_skipped(step, figures)
            return self.in_a_row > self.config.trainer.max_nonfinite_steps
        loss, self.in_a_row = self._loss(figures), 0
        self._loss_sum, self._steps_in_sum = self._loss_sum + loss, self._steps_in_sum + 1
        if self._trend.is_spike(loss):
            self._note_spike(step, loss)
        self._trend.take(loss)
        return False

    def mean_loss(self) -> float:
        """Of the steps since the last call that were not skipped; NaN where all were."""
        self._unlabeled.check()
        mean = self._loss_sum / self._steps_in_sum if self._steps_in_sum else math.nan
        self._loss_sum, self._steps_in_sum = 0.0, 0
        return mean

    def _loss(self, figures: StepStats) -> float:
        """Of the global batch; where several ranks have the same images, each says it."""
        return math.fsum(figures.losses) / self.batches.context_parallel_size

    def samples(self, start: int, rank: int) -> list[dict[str, Any]]:
        """Epoch, number and key of the samples that a rank takes of the global batch at this position of the order."""
        epochs, numbers = self._order.samples(np.array(self.batches.share(start, rank), dtype=np.int64))
        pairs = zip(epochs.tolist(), numbers.tolist(), strict=True)
        return [{"epoch": epoch, "sample": number, "key": self._key(number)} for epoch, number in pairs]

    def _note_skipped(self, step: StepRecord, figures: StepStats) -> None:
        if not distributed.is_main():
            return
        ranks = faulty_ranks(figures)
        cause = f"the loss of {named(ranks)} is not finite" if ranks else "the gradients are not finite"
        line = {
            "cause": "loss" if ranks else "gradients",
            "loss": None if ranks else self._loss(figures),
            "ranks": ranks,
            "in_a_row": self.in_a_row,
        }
        samples = self._write("skipped", step, line, ranks or range(len(figures.losses)))
        allowed = self.config.trainer.max_nonfinite_steps
        self._warn(f"step {step.number} is skipped: {cause}", samples, f"{self.in_a_row} in a row of {allowed} allowed")

    def _note_spike(self, step: StepRecord, loss: float) -> None:
        if not distributed.is_main():
            return
        mean, deviation = self._trend.mean, self._trend.deviation
        line = {"loss": loss, "expected": mean, "deviation": deviation}
        samples = self._write("spike", step, line, range(self.batches.world_size))
        self._warn(f"step {step.number} has loss {loss:.4g}", samples, f"{mean:.4g} +- {deviation:.2g} was expected")

    def _write(self, kind: str, step: StepRecord, about: dict[str, Any], ranks: Sequence[int]) -> list[dict[str, Any]]:
        samples = [sample for rank in self.batches.firsts(ranks) for sample in self.samples(step.start, rank)]
        if self.config.run.dir:
            line = {"kind": kind, "step": step.number, **about, "samples": samples}
            self._writer.add_line(RunLayout(self.config.run.dir).anomalies, line)
        return samples

    def _warn(self, what: str, samples: Sequence[dict[str, Any]], remark: str) -> None:
        keys = [str(sample["key"] or sample["sample"]) for sample in samples]
        shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        logger.warning(f"{what} ({shown}); {remark}")

    def _key(self, number: int) -> str | None:
        try:
            return self._source.key(number)
        except (UserError, OSError):  # a name is not worth a run
            return None

    @cached_property
    def _source(self) -> ShardSource:
        return train_source(self.config, self.manifest)


def faulty_ranks(figures: StepStats) -> list[int]:
    """The ranks whose own loss is not finite; none where only gradients are not."""
    return [rank for rank, loss in enumerate(figures.losses) if not math.isfinite(loss)]


def named(ranks: Sequence[int]) -> str:
    """`rank 1`, or `ranks 1, 3`."""
    return f"rank{'s' if len(ranks) > 1 else ''} {listed(ranks)}"
