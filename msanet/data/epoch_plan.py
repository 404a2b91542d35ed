"""The batches of one epoch for any loop: every sample once, on any number of ranks, from any position on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch.distributed
from torch.utils.data import IterableDataset

from msanet.data.loader_processes import worker
from msanet.data.mixed_order import SampleOrder
from msanet.data.pipeline import Positions
from msanet.errors import UserError


class InOrder:
    """The order of an evaluation: that of the samples, in every epoch, which is always number 0."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def samples(self, positions: np.ndarray) -> Positions:
        """Positions to (epochs, samples), as ShuffleOrder does."""
        return np.zeros_like(positions), positions % self.num_samples


@dataclass(frozen=True)
class EpochPlan:
    """How an epoch is cut into global batches, and these into shares.

    The last batch is a smaller one. In a training every rank needs a sample in every batch, or it would take fewer steps and
    the others would wait for ever: where fewer samples than ranks would be left, the last two batches are made equally large;
    where fewer are left at the start, or with batch_size 1, the batch is completed with the head of the next epoch, which
    then begins behind it.

    Args:
        epoch_length: Samples of the split.
        batch_size: Of each rank.
        world_size: Ranks.
        is_train: Whether all ranks need the same number of batches.
        drop_last: Skip an epoch's last samples that fill no batch.
    """

    epoch_length: int
    batch_size: int
    world_size: int
    is_train: bool
    drop_last: bool = False

    @property
    def global_batch_size(self) -> int:
        """Samples of a full batch on all ranks."""
        return self.batch_size * self.world_size

    def require_a_batch(self) -> None:
        """Raise UserError if the split is too small for these ranks."""
        needed = self.global_batch_size if self.drop_last else self.world_size if self.is_train else 1
        if self.epoch_length < needed:
            raise UserError(
                "MSA-DATA-738",
                f"the split has {self.epoch_length} samples, expected at least {needed} for {self.world_size} ranks with "
                f"batch_size={self.batch_size} and drop_last={self.drop_last}; lower batch_size, or start fewer ranks",
                setting="batch_size",
            )

    def batches(self, start: int) -> Iterator[range]:
        """Positions of each global batch from position `start` to the end of its epoch."""
        end = self.epoch_end(start)
        while start < end and not (self.drop_last and end - start < self.global_batch_size):
            stop = start + self._length(end - start)
            yield range(start, stop)
            start = stop

    def epoch_end(self, position: int) -> int:
        """The position behind the epoch that holds a position."""
        return (position // self.epoch_length + 1) * self.epoch_length

    def after(self, batch: range) -> int:
        """Where to go on after a batch: behind it, or behind the samples that are dropped."""
        left = self.epoch_end(batch.start) - batch.stop
        return batch.stop + left if self.drop_last and left < self.global_batch_size else batch.stop

    def share(self, batch: range, rank: int) -> range:
        """A rank's positions of a global batch; shares differ by at most 1."""
        size = len(batch)
        return batch[size * rank // self.world_size : size * (rank + 1) // self.world_size]

    def length(self, rank: int) -> int:
        """Batches of a rank in an epoch that begins at its first sample."""
        full, left = divmod(self.epoch_length, self.global_batch_size)
        if not left or self.drop_last:
            return full
        return full + bool(self.is_train or self.share(range(left), rank))

    def _length(self, left: int) -> int:
        """Samples of the next global batch, where `left` are left of the epoch."""
        full, ranks = self.global_batch_size, self.world_size
        if not self.is_train:
            return min(full, left)
        if left <= full:
            return max(left, ranks)
        is_rest_too_small = left - full < ranks and not self.drop_last
        return -(-left // 2) if is_rest_too_small and left >= 2 * ranks else full


class EpochPositions(IterableDataset):
    """Yields the (epochs, samples) of a rank's batches; loader process w of W takes batches w, w + W, ..."""

    def __init__(self, order: SampleOrder | InOrder, plan: EpochPlan, rank: int, start: int) -> None:
        self.order, self.plan, self.rank, self.start = order, plan, rank, start

    def __iter__(self) -> Iterator[Positions]:
        number, workers = worker()
        shares = (self.plan.share(batch, self.rank) for batch in self.plan.batches(self.start))
        for index, positions in enumerate(share for share in shares if share):
            if index % workers == number:
                yield self.order.samples(np.array(positions, dtype=np.int64))


def rank_and_world_size() -> tuple[int, int]:
    """Of torch.distributed, else of the launcher (torchrun, deepspeed), else of a single process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return (int(rank), int(world_size)) if rank.isdigit() and world_size.isdigit() else (0, 1)
