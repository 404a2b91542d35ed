"""The order of several datasets: pure, in exact proportions, each sample once in each epoch of its own dataset."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from msanet.data.mixed_order import MixedOrder, own_shuffle_config, samples_per_epoch
from msanet.data.shuffle_order import ShuffleConfig, ShuffleOrder, rank_slice
from support.errors import raises_user_error

SIZES = (37, 5, 90)
PLAN = ShuffleConfig(seed=3, streams=12, shuffle_window=4, shuffle_block_bytes=10)
WEIGHTS = [(), (1.0, 1.0, 1.0), (5.0, 1.0, 0.1), (1.0, 6.0, 2.0)]


def order(plan: ShuffleConfig = PLAN) -> MixedOrder:
    counts = samples_per_epoch(SIZES, plan.sampling_weights)
    orders = [
        ShuffleOrder(own_shuffle_config(plan, number, count, size, sum(SIZES)), [size], [size * 4])
        for number, (count, size) in enumerate(zip(counts, SIZES, strict=True))
    ]
    return MixedOrder(plan, orders, counts)


def dataset_of(ids: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(SIZES), ids, side="right")


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_sample_is_taken_once_in_each_epoch_of_its_own_dataset(weights: tuple[float, ...]) -> None:
    mixed, mixes = order(replace(PLAN, sampling_weights=weights)), 7
    epochs, ids = mixed.samples(np.arange(mixes * sum(SIZES)))
    counts = samples_per_epoch(SIZES, weights)
    start = 0
    for number, (size, count) in enumerate(zip(SIZES, counts, strict=True)):
        own = dataset_of(ids) == number
        assert own.sum() == mixes * count
        by_epoch = [Counter(ids[own & (epochs == epoch)].tolist()) for epoch in range(epochs[own].max() + 1)]
        assert all(epoch == Counter(range(start, start + size)) for epoch in by_epoch[:-1])
        assert set(by_epoch[-1].values()) == {1}, "the last is cut, and its rest comes in the next epoch of the mix"
        assert len(by_epoch) == -(-mixes * count // size)
        start += size


@pytest.mark.parametrize("weights", WEIGHTS)
def test_proportions_hold_in_each_epoch_and_each_batch(weights: tuple[float, ...]) -> None:
    mixed = order(replace(PLAN, sampling_weights=weights))
    total, counts = sum(SIZES), samples_per_epoch(SIZES, weights)
    assert sum(counts) == total
    exact = np.array(weights or SIZES) / sum(weights or SIZES) * total
    assert (np.abs(np.array(counts) - exact) < 1).all()
    datasets = dataset_of(mixed.samples(np.arange(5 * total))[1])
    for epoch in range(5):
        assert np.bincount(datasets[epoch * total : (epoch + 1) * total], minlength=3).tolist() == counts
        for start in range(0, total - PLAN.streams, PLAN.streams):
            batch = datasets[epoch * total :][start : start + PLAN.streams]
            assert (np.abs(np.bincount(batch, minlength=3) - exact / total * PLAN.streams) < 2).all()


def test_without_weights_an_epoch_is_each_sample_once() -> None:
    epochs, ids = order().samples(np.arange(2 * sum(SIZES)))
    assert epochs.tolist() == [0] * sum(SIZES) + [1] * sum(SIZES)
    assert sorted(ids[: sum(SIZES)]) == list(range(sum(SIZES))) == sorted(ids[sum(SIZES) :])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_order_is_a_pure_function_of_the_position(world_size: int) -> None:
    plan = replace(PLAN, sampling_weights=(2.0, 1.0, 3.0))
    wanted = list(zip(*order(plan).samples(np.arange(300)), strict=True))
    for start in range(0, 300, plan.streams):
        own = [
            order(plan).samples(np.array(rank_slice(start, plan.streams, rank, world_size), dtype=np.int64))
            for rank in range(world_size)
        ]
        taken = [pair for rank in own for pair in zip(*rank, strict=True)]
        assert taken == wanted[start : start + plan.streams]
    backwards = order(plan).samples(np.arange(300)[::-1].copy())
    assert list(zip(*backwards, strict=True)) == wanted[::-1]


def test_ranks_do_not_get_the_images_of_one_dataset_only() -> None:
    """Two of equal size on two ranks with one image each: a plain alternation would give each rank a dataset of its own."""
    plan = replace(PLAN, streams=2)
    orders = [ShuffleOrder(own_shuffle_config(plan, k, 40, 40, 80), [40], [160]) for k in range(2)]
    mixed = MixedOrder(plan, orders, [40, 40])
    first_rank = mixed.samples(np.arange(0, 80, 2))[1] // 40
    assert 10 < first_rank.sum() < 30


def test_datasets_of_one_size_have_orders_of_their_own() -> None:
    orders = [ShuffleOrder(own_shuffle_config(PLAN, k, 40, 40, 80), [40], [160]) for k in range(2)]
    left, right = (one.samples(np.arange(40))[1].tolist() for one in orders)
    assert left != right and sorted(left) == sorted(right)


def test_seed_and_epoch_change_the_order() -> None:
    first, other = (order(replace(PLAN, seed=seed)).samples(np.arange(264))[1] for seed in (3, 4))
    for left, right in ((first, other), (first[:132], first[132:])):
        assert (left != right).mean() > 0.9
        assert (dataset_of(left) != dataset_of(right)).any(), "also which dataset comes when"


def test_drop_last_drops_the_tail_of_an_epoch_of_the_mix() -> None:
    plan = replace(PLAN, streams=25, drop_last=True, sampling_weights=(1.0, 1.0, 1.0))
    mixed = order(plan)
    assert (mixed.num_samples, mixed.epoch_length) == (132, 125)
    epochs, ids = mixed.samples(np.arange(6 * 125))
    pairs = Counter(zip(epochs.tolist(), ids.tolist(), strict=True))
    assert max(pairs.values()) == 1


def test_positions_of_large_datasets_cost_no_list_of_samples() -> None:
    sizes = (10**8, 3 * 10**7)
    plan = replace(PLAN, streams=4096, sampling_weights=(1.0, 1.0), shuffle_block_bytes=10**10)
    counts = samples_per_epoch(sizes, plan.sampling_weights)
    orders = [
        ShuffleOrder(own_shuffle_config(plan, k, count, size, sum(sizes)), [size], [size * 10**5])
        for k, (count, size) in enumerate(zip(counts, sizes, strict=True))
    ]
    epochs, ids = MixedOrder(plan, orders, counts).samples(20 * sum(sizes) + np.arange(8))
    is_second = ids >= sizes[0]
    assert set(epochs[~is_second]) == {13} and set(epochs[is_second]) == {43}
    assert len(set(ids.tolist())) == 8


def test_the_order_never_changes() -> None:
    """A run that an earlier version began resumes in it."""
    found = np.concatenate(order(replace(PLAN, sampling_weights=(1.0, 6.0, 2.0))).samples(np.arange(300)))
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()[:16] == "3a0f8e1ccdebb116"


def test_a_weight_that_takes_nothing() -> None:
    with raises_user_error("MSA-DATA-762", setting="data.sampling_weights"):
        samples_per_epoch(SIZES, (1.0, 1e-6, 1.0))
