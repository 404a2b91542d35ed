"""The order of a training on several datasets: as pure a function of (seed, epoch, position) as that of one.

an epoch   has as many samples as all datasets together, M; dataset k gives count_k of them by its weight
position P: epoch = P // M, place = P % M
a place    belongs to one dataset: each has its places evenly spread (Bresenham's line), shuffled inside each global batch
dataset k: its places follow each other through its own ShuffleOrder, from one epoch of the mix to the next, so that
           each of its samples is taken exactly once in each epoch of its own
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from msanet.data.shuffle_order import ShuffleConfig, ShuffleOrder, random_bits
from msanet.errors import UserError

_SEEDS, _PLACES = 2, 3
"""Streams of draws, after the two of ShuffleOrder."""


def samples_per_epoch(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many samples of each dataset an epoch of the mix has.

    Args:
        sizes: Samples of each dataset.
        weights: Relative; empty: the sizes, so that each sample is taken once.

    Returns:
        Counts that sum up to that of all samples, within 1 of the weights' exact shares (largest remainder).

    Raises:
        UserError: A weight gives no sample.
    """
    if not weights:
        return [*sizes]
    total, sum_of_weights = sum(sizes), sum(map(Fraction, weights))
    shares = [Fraction(weight) * total / sum_of_weights for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda k: (counts[k] - shares[k], k))
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    for number, (size, count) in enumerate(zip(sizes, counts, strict=True), 1):
        if not size or not count:
            raise UserError(
                "MSA-DATA-762",
                f"data.sampling_weights={list(weights)} takes none of the {total} samples of an epoch from dataset {number}, "
                f"which has {size}, expected at least one; raise its weight, or remove the dataset from data.path",
                setting="data.sampling_weights",
            )
    return counts


def own_shuffle_config(plan: ShuffleConfig, number: int, count: int, size: int, total: int) -> ShuffleConfig:
    """The order of dataset `number`: with a seed of its own, and as many streams as it has samples in a global batch."""
    seed = int(random_bits(np.array([plan.seed, number], dtype=np.uint64), _SEEDS, 0, 1)[0])
    streams = min(max(round(plan.streams * count / total), 1), size)
    return replace(plan, seed=seed, streams=streams, drop_last=False, sampling_weights=())


class MixedOrder:
    """All epochs of a mix, with the interface of ShuffleOrder.

    A sample's id is its number in the concatenation of the datasets, its epoch one of its own dataset.

    Args:
        plan: Of the run.
        orders: Those of the datasets.
        counts: Samples of each in an epoch of the mix.
    """

    def __init__(self, plan: ShuffleConfig, orders: Sequence[ShuffleOrder], counts: Sequence[int]) -> None:
        self.plan, self.orders, self.counts = plan, orders, counts
        self._starts = np.cumsum([0, *(order.num_samples for order in orders)])
        self.num_samples = int(self._starts[-1])
        self.epoch_length = self.num_samples - (self.num_samples % plan.streams if plan.drop_last else 0)

    def samples(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N,) to (epochs, sample ids), all int64."""
        mixes, places = np.divmod(positions, self.epoch_length)
        epochs, ids = np.empty_like(positions), np.empty_like(positions)
        for number, mine, own_positions in self._split(mixes, self._shuffled(mixes, places)):
            epochs[mine], own_ids = self.orders[number].samples(own_positions)
            ids[mine] = self._starts[number] + own_ids
        return epochs, ids

    def _split(self, mixes: np.ndarray, places: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(dataset, which of the places are its own, their positions in its order) of each dataset.

        Of the first p of t places, (p c + t // 2) // t belong to a dataset that has c: none of 0, and c of t. The next
        dataset has its share of the places that are left.
        """
        is_left, total = np.ones(places.shape, dtype=bool), self.num_samples
        for number, count in enumerate(self.counts):
            before, after = ((p * count + total // 2) // total for p in (places, places + 1))
            mine = is_left & (after > before)
            if mine.any():
                yield number, mine, mixes[mine] * count + before[mine]
            is_left &= ~mine
            places, total = places - before, total - count

    def _shuffled(self, mixes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The places, permuted within runs of one global batch: else a rank might get its images from one dataset only."""
        size, shuffled = self.plan.streams, np.empty_like(places)
        runs = places // size
        for mix, run in {*zip(mixes.tolist(), runs.tolist(), strict=True)}:
            key = np.array([self.plan.seed, mix], dtype=np.uint64)
            first = run * size
            draws = random_bits(key, _PLACES, first, min(size, self.epoch_length - first))
            mine = (mixes == mix) & (runs == run)
            shuffled[mine] = first + np.argsort(draws, kind="stable")[places[mine] - first]
        return shuffled


SampleOrder = ShuffleOrder | MixedOrder
"""Of a training."""
