"""The order in which samples are seen: a pure function of (seed, epoch, position), the same for any number of ranks.

    blocks  = runs of samples inside one shard, about shuffle_block_bytes each
    epoch   : ids = concatenation of the blocks in a random order
              split ids into L contiguous streams; lengths differ by at most 1     (L = global batch, frozen)
              inside a stream sort by position + U(0, window)                         (bounded displacement)
              order[l::L] = stream l
    position P: epoch = P // N, sample = order(epoch)[P % N]

Blocks keep reads local, streams mix distant blocks into one batch, and a stream is resolved only around the requested
position. See docs/decisions/0004.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.random import Philox

_CHUNK = 512
"""Positions of a stream that are resolved and cached at once."""
_CACHED_CHUNKS = 4096


@dataclass(frozen=True)
class ShuffleConfig:
    """What the order depends on; saved with every checkpoint and constant in a run.

    Args:
        seed: Of the run.
        streams: The global batch size at the start of the run.
        shuffle_window: Bound of the displacement inside a stream, in samples.
        shuffle_block_bytes: Size of the blocks that are permuted.
        drop_last: Drop an epoch's last samples that fill no batch, instead of carrying them over.
        sampling_weights: Of several datasets; see `msanet.data.mixed_order`.
    """

    seed: int
    streams: int
    shuffle_window: int
    shuffle_block_bytes: int
    drop_last: bool = False
    sampling_weights: tuple[float, ...] = ()


class ShuffleOrder:
    """All epochs of one split. shard_samples, shard_bytes: per shard, from the manifest. Memory: 16 bytes a block."""

    def __init__(self, plan: ShuffleConfig, shard_samples: Iterable[int], shard_bytes: Iterable[int]) -> None:
        self.plan = plan
        blocks = _split_into_blocks(shard_samples, shard_bytes, plan.shuffle_block_bytes)
        self._block_starts, self._block_lengths = blocks
        self.num_samples = int(self._block_lengths.sum())
        dropped = self.num_samples % plan.streams if plan.drop_last else 0
        self.epoch_length = self.num_samples - dropped
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()

    def samples(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (int64, any order) to (epochs, sample ids), both int64 of the same shape.

        A sample's id is its number in the split: shards in the manifest's order, samples in the shard's order.
        """
        epochs = positions // self.epoch_length
        within = positions % self.epoch_length
        ids = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            ids[chosen] = self._epoch(int(epoch)).samples(within[chosen])
        return epochs, ids

    def _epoch(self, number: int) -> "_Epoch":
        if number not in self._epochs:
            self._epochs[number] = _Epoch(self.plan, number, self._block_starts, self._block_lengths)
            while len(self._epochs) > 2:  # a carried batch needs two
                self._epochs.popitem(last=False)
        return self._epochs[number]


class _Epoch:
    """One epoch: the permuted blocks, and streams resolved lazily."""

    def __init__(self, plan: ShuffleConfig, number: int, block_starts: np.ndarray, block_lengths: np.ndarray) -> None:
        self.plan = plan
        self.key = np.array([plan.seed, number], dtype=np.uint64)
        permutation = np.argsort(random_bits(self.key, 0, 0, len(block_starts)), kind="stable")
        self.starts = block_starts[permutation]
        self.ends = np.cumsum(block_lengths[permutation])  # of each block in the concatenation
        self.quotient, self.remainder = divmod(int(self.ends[-1]), plan.streams)
        self.chunks: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def samples(self, within: np.ndarray) -> np.ndarray:
        streams, ranks = within % self.plan.streams, within // self.plan.streams
        indices = np.array([self._index(int(s), int(r)) for s, r in zip(streams, ranks, strict=True)], dtype=np.int64)
        blocks = np.searchsorted(self.ends, indices, side="right")
        before = np.where(blocks > 0, self.ends[blocks - 1], 0)
        return self.starts[blocks] + (indices - before)

    def _index(self, stream: int, rank: int) -> int:
        """Index in the concatenation of the `rank`-th sample of a stream."""
        chunk, offset = divmod(rank, _CHUNK)
        key = (stream, chunk)
        indices = self.chunks.get(key)
        if indices is None:
            indices = self.chunks[key] = self._sort_chunk(stream, chunk)
            if len(self.chunks) > _CACHED_CHUNKS:
                self.chunks.popitem(last=False)
        return int(indices[offset])

    def _sort_chunk(self, stream: int, chunk: int) -> np.ndarray:
        """Indices of ranks [chunk * _CHUNK, +_CHUNK) of a stream.

        Position i has the key i + U(0, window), so the k-th smallest key lies in [k, k + window) and belongs to a
        position in (k - window, k + window): everything before `low` sorts before, everything from `high` after.
        """
        window = self.plan.shuffle_window
        start = stream * self.quotient + min(stream, self.remainder)
        length = self.quotient + (stream < self.remainder)
        first, last = chunk * _CHUNK, min((chunk + 1) * _CHUNK, length)
        low, high = max(0, first - window), min(length, last + window)
        uniform = random_bits(self.key, 1, start + low, high - low) >> np.uint64(11)  # 53 bits, exact in float64
        keys = np.arange(low, high) + uniform.astype(np.float64) * (window / 2**53)
        by_key = np.argsort(keys, kind="stable")
        return start + low + by_key[first - low : last - low]


def rank_slice(consumed_samples: int, global_batch_size: int, rank: int, world_size: int) -> range:
    """The positions of rank `rank` in the global batch that starts at position `consumed_samples`."""
    share = global_batch_size // world_size
    assert share * world_size == global_batch_size, "the batch plan is checked when the run starts"
    return range(consumed_samples + rank * share, consumed_samples + (rank + 1) * share)


def evaluation_slice(num_samples: int, rank: int, world_size: int) -> range:
    """A contiguous share of a split without padding; shares differ by at most 1, and may be empty."""
    return range(num_samples * rank // world_size, num_samples * (rank + 1) // world_size)


def block_of(row: int, samples: int, size: int, shuffle_block_bytes: int) -> range:
    """The samples in the block of sample number `row` of a shard of `samples` and `size` bytes."""
    count = min(max(size // shuffle_block_bytes, 1), samples)
    number = ((row + 1) * count - 1) // samples
    return range(number * samples // count, (number + 1) * samples // count)


def _split_into_blocks(
    shard_samples: Iterable[int], shard_bytes: Iterable[int], shuffle_block_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(start ids, lengths) of the blocks: each shard is split evenly into blocks of about shuffle_block_bytes."""
    samples = np.fromiter(shard_samples, dtype=np.int64)
    sizes = np.fromiter(shard_bytes, dtype=np.int64)
    counts = np.clip(sizes // shuffle_block_bytes, 1, samples)  # blocks per shard
    shard_of_block = np.repeat(np.arange(len(samples)), counts)
    first_block = np.cumsum(counts) - counts
    number = np.arange(len(shard_of_block)) - first_block[shard_of_block]  # of the block in its shard
    n, c = samples[shard_of_block], counts[shard_of_block]
    begin, end = number * n // c, (number + 1) * n // c
    shard_start = np.cumsum(samples) - samples
    return shard_start[shard_of_block] + begin, end - begin


def random_bits(key: np.ndarray, stream: int, start: int, count: int) -> np.ndarray:
    """64-bit draws number start..start+count of a stream: Philox is a function of its counter, which gives four draws.

    The stream is the counter's highest word, so that streams never overlap.
    """
    group, skip = divmod(start, 4)
    counter = np.array([group, 0, 0, stream], dtype=np.uint64)
    return Philox(key=key, counter=counter).random_raw(count + skip)[skip:]
