"""The order: exactly once, the same for any number of ranks, one integer to resume from."""

import hashlib
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from msanet.data.loader import plan_batches
from msanet.data.shuffle_order import (
    ShuffleConfig,
    ShuffleOrder,
    _split_into_blocks,
    block_of,
    evaluation_slice,
    rank_slice,
)
from msanet.errors import UserError

GRID = [
    # shard sizes, streams (global batch), window
    ([10], 3, 64),
    ([1, 2, 3, 4], 4, 2),
    ([50, 50, 49, 7], 8, 16),
    ([275] * 10 + [225], 32, 64),
    ([5], 5, 1),
    ([700, 3, 600], 2, 5),  # streams longer than one chunk
    ([13, 14], 24, 64),  # more than half of every lane is a carried head
]


def make(shards: list[int], streams: int, window: int, seed: int = 3, drop: bool = False) -> ShuffleOrder:
    return ShuffleOrder(ShuffleConfig(seed, streams, window, 1000, drop), shards, [samples * 150 for samples in shards])


@pytest.mark.parametrize(("shards", "streams", "window"), GRID)
def test_each_epoch_holds_every_sample_once(shards: list[int], streams: int, window: int) -> None:
    order, count = make(shards, streams, window), sum(shards)
    for epoch in range(3):
        epochs, samples = order.samples(np.arange(epoch * count, (epoch + 1) * count))
        assert set(epochs) == {epoch}
        assert sorted(samples) == list(range(count))


@pytest.mark.parametrize(("shards", "streams", "window"), GRID)
def test_any_position_alone_gives_what_the_whole_gives(shards: list[int], streams: int, window: int) -> None:
    count = sum(shards)
    whole = make(shards, streams, window).samples(np.arange(3 * count))[1]
    positions = np.random.default_rng(0).permutation(3 * count)[:200]
    fresh = make(shards, streams, window)
    assert [int(fresh.samples(np.array([p]))[1][0]) for p in positions] == whole[positions].tolist()


@pytest.mark.parametrize(("shards", "streams", "window"), GRID)
def test_the_displacement_inside_a_lane_is_bounded(shards: list[int], streams: int, window: int) -> None:
    """Undo the window: without it (window 1) a lane is its run of permuted blocks."""
    count = sum(shards)
    mixed = make(shards, streams, window).samples(np.arange(count))[1]
    plain = make(shards, streams, 1).samples(np.arange(count))[1]
    for lane in range(streams):
        place = {sample: number for number, sample in enumerate(plain[lane::streams])}
        moved = [abs(place[sample] - number) for number, sample in enumerate(mixed[lane::streams])]
        assert max(moved, default=0) < window


def test_epochs_and_seeds_differ() -> None:
    order = make([400], 4, 64)
    first, second = (order.samples(np.arange(400) + start)[1] for start in (0, 400))
    assert (first != second).mean() > 0.9
    assert (make([400], 4, 64, seed=4).samples(np.arange(400))[1] != first).mean() > 0.9


def test_the_order_is_frozen() -> None:
    """A change here would make every saved run resume on other data: it needs a new plan version, not a new number."""
    samples = make([275] * 10 + [225], 32, 64, seed=7).samples(np.arange(2 * 2975))[1]
    assert hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest()[:16] == "0efaec13fdaef5b0"


@pytest.mark.parametrize("drop", [False, True])
def test_global_batches_do_not_depend_on_the_number_of_ranks(drop: bool) -> None:
    order = make([50, 50, 49, 7], 12, 16, drop=drop)
    batches = []
    for world in (1, 2, 3, 4, 6, 12):
        slices = [
            [list(rank_slice(step * 12, 12, rank, world)) for rank in range(world)] for step in range(30)
        ]  # crosses two epochs' ends
        flat = [order.samples(np.array(sum(ranks, []))) for ranks in slices]
        batches.append([(epochs.tolist(), samples.tolist()) for epochs, samples in flat])
        assert all(len({len(share) for share in ranks}) == 1 for ranks in slices), "ranks must take equal steps"
    assert all(other == batches[0] for other in batches)


def test_carry_takes_the_head_of_the_next_epoch_and_drop_leaves_the_tail_out() -> None:
    carried = make([13, 14], 4, 8)
    epochs, samples = carried.samples(np.arange(24, 28))
    assert epochs.tolist() == [0, 0, 0, 1]
    assert samples[3] == carried.samples(np.array([27]))[1][0]
    dropped = make([13, 14], 4, 8, drop=True)
    assert dropped.epoch_length == 24
    assert dropped.samples(np.arange(24, 28))[0].tolist() == [1, 1, 1, 1]
    assert len(set(dropped.samples(np.arange(24))[1])) == 24


def test_batches_mix_distant_shards() -> None:
    """A batch of 32 from 27 shards comes nearly as mixed as an ideal shuffle's."""
    shards = [110] * 27
    order = ShuffleOrder(ShuffleConfig(0, 32, 64, 8 * 2**20), shards, [110 * 2_400_000] * 27)
    shard_of = np.repeat(np.arange(27), 110)
    batches = order.samples(np.arange(32 * 80))[1].reshape(80, 32)
    ideal = np.random.default_rng(0).permutation(27 * 110)[: 32 * 80].reshape(80, 32)
    distinct = [np.mean([len(set(shard_of[batch])) for batch in rows]) for rows in (batches, ideal)]
    assert distinct[0] > 0.9 * distinct[1]


def test_evaluation_slices_cover_everything_once() -> None:
    for count, world in product((0, 1, 2, 7, 100), (1, 2, 3, 8)):
        slices = [evaluation_slice(count, rank, world) for rank in range(world)]
        assert [number for part in slices for number in part] == list(range(count))
        assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_the_block_of_a_sample_is_one_that_the_order_cuts() -> None:
    """What is fetched around a sample must be what the order takes there."""
    rng = np.random.default_rng(0)
    samples = np.concatenate([rng.integers(1, 40, 200), rng.integers(1, 6000, 30)])
    sizes = samples * rng.integers(1, 5000, len(samples))  # from less than one block to more than one a sample
    starts, lengths = _split_into_blocks(samples, sizes, 1000)
    cut = {range(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)}
    found, first = [], 0
    for count, size in zip(samples.tolist(), sizes.tolist(), strict=True):
        blocks = [block_of(place, count, size, 1000) for place in range(count)]
        assert all(place in block for place, block in enumerate(blocks))
        found += [range(first + block.start, first + block.stop) for block in dict.fromkeys(blocks)]
        first += count
    assert len(found) == len(cut) and set(found) == cut
    assert len(samples) < len(cut) < sum(samples), "neither one block a shard nor one a sample"


def test_batch_plans() -> None:
    assert plan_batches(8, None, 2).accumulation == 1
    assert plan_batches(8, 2, 2).accumulation == 2
    with pytest.raises(
        UserError, match=r"8 cannot be shared by 3 ranks; start 1 or 2 or 4 or 8 ranks, or set it to 6 or 9"
    ):
        plan_batches(8, None, 3)
    with pytest.raises(
        UserError, match=r"micro_batch_size=3 does not divide the 4 images of each rank .* set it to 1 or 2 or 4"
    ):
        plan_batches(8, 3, 2)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_small_at_100_million_samples() -> None:
    """4,096 ranks x 8 workers hold this each: 200 MB at most, interpreter included."""
    code = (
        "import re, numpy as np\n"
        "from msanet.data.shuffle_order import ShuffleOrder, ShuffleConfig\n"
        "order = ShuffleOrder(ShuffleConfig(0, 4096 * 8, 64, 8 << 20), [5000] * 20000, [400 << 20] * 20000)\n"
        "assert order.num_samples == 100_000_000\n"
        "order.samples(np.array([123_456_789]))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 200
