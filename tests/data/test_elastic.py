"""Stop at any step, go on with other ranks, micro-batches and loader processes: the same batches, pixel for pixel."""

import random
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from msanet.config import Config, parse_config
from msanet.data.loader import plan_batches, shuffle_config, shuffle_order, train_loader, train_source
from msanet.data.manifest import load_manifest
from msanet.data.pipeline import Batch

SAMPLES, GLOBAL = 26, 12
WORLDS = (1, 2, 3, 4, 6, 12)
FIELDS = ("epochs_N", "samples_N", "images_NHWC", "labels_NHW", "jitter_N3")
SPLITS = [(world, micro) for world in WORLDS for micro in range(1, GLOBAL // world + 1) if GLOBAL // world % micro == 0]
"""All (world size, micro-batch) that share a global batch."""

GlobalBatch = dict[str, np.ndarray]


def config_for(shards: Path, drop_last: bool = False, workers: int = 0, prefetch: int = 2) -> Config:
    data = {
        "path": str(shards),
        "crop": [30, 40],
        "random_scale": [0.6, 1.5],
        "flip_vertical": 0.5,
        "brightness": 0.3,
        "shuffle_block_bytes": 10_000,  # several blocks a shard
        "shuffle_window": 3,
        "drop_last": drop_last,
        "num_workers": workers,
        "prefetch_factor": prefetch,
    }
    return parse_config({"data": data, "trainer": {"global_batch_size": GLOBAL, "steps": 9}}, "test")


def rank_stream(
    config: Config, world: int, micro: int, rank: int, consumed_samples: int, steps: int
) -> list[list[Batch]]:
    """What one rank of a run that resumes at `consumed_samples` gets; everything is built again, as in a new process."""
    manifest = load_manifest(Path(config.data.source))
    order, source = shuffle_order(manifest, "train", shuffle_config(config)), train_source(config, manifest)
    loader = train_loader(config, order, source, plan_batches(GLOBAL, micro, world), rank, consumed_samples)
    return list(islice(loader, steps))


def global_batches(config: Config, world: int, micro: int, consumed_samples: int, steps: int) -> list[GlobalBatch]:
    """The ranks' shares and micro-batches of each step joined, in order."""
    ranks = [rank_stream(config, world, micro, rank, consumed_samples, steps) for rank in range(world)]
    assert all(len(step) == GLOBAL // world // micro for steps in ranks for step in steps)
    return [
        {name: np.concatenate([getattr(batch, name).numpy() for share in shares for batch in share]) for name in FIELDS}
        for shares in zip(*ranks, strict=True)
    ]


@cache
def reference(shards: Path, drop_last: bool = False) -> list[GlobalBatch]:
    """One rank, one micro-batch a step, never stopped."""
    return global_batches(config_for(shards, drop_last), 1, GLOBAL, 0, 9)


def differences(got: list[GlobalBatch], wanted: list[GlobalBatch]) -> list[tuple[int, str]]:
    """(step, field) wherever two streams are not the same."""
    pairs = enumerate(zip(got, wanted, strict=True))
    return [(step, name) for step, (a, b) in pairs for name in FIELDS if not np.array_equal(a[name], b[name])]


def seen(batches: list[GlobalBatch]) -> list[tuple[int, int]]:
    """(epoch, sample) in the order of training."""
    return [
        pair for batch in batches for pair in zip(batch["epochs_N"].tolist(), batch["samples_N"].tolist(), strict=True)
    ]


def test_the_reference_tells_samples_and_epochs_apart(shards: Path) -> None:
    """Else the comparisons below would compare nothing."""
    batches = reference(shards)
    for name in ("images_NHWC", "labels_NHW", "jitter_N3"):
        assert len({sample.tobytes() for batch in batches for sample in batch[name]}) == 9 * GLOBAL, name
    assert [batch["images_NHWC"].shape for batch in batches] == [(GLOBAL, 30, 40, 3)] * 9
    assert len(load_manifest(shards).split("train").shards) > 3


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("world", "micro"), SPLITS)
def test_any_ranks_and_micro_batches_give_the_reference(shards: Path, drop_last: bool, world: int, micro: int) -> None:
    got = global_batches(config_for(shards, drop_last), world, micro, 0, 5)  # into the third epoch
    assert differences(got, reference(shards, drop_last)[:5]) == []


@pytest.mark.parametrize("step", range(6))
def test_any_step_is_one_to_resume_from(shards: Path, step: int) -> None:
    world, micro = SPLITS[5 * step % len(SPLITS)]
    got = global_batches(config_for(shards), world, micro, step * GLOBAL, 3)
    assert differences(got, reference(shards)[step : step + 3]) == []


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_random_switches_change_nothing(shards: Path, drop_last: bool, seed: int) -> None:
    choice = random.Random(seed)
    got: list[GlobalBatch] = []
    runs: list[tuple[int, int, int]] = []
    while len(got) * GLOBAL <= 2 * SAMPLES:
        runs.append((*choice.choice(SPLITS), choice.randint(1, 3)))  # world size, micro-batch, steps
        world, micro, steps = runs[-1]
        got += global_batches(config_for(shards, drop_last), world, micro, len(got) * GLOBAL, steps)
    assert differences(got, reference(shards, drop_last)[: len(got)]) == [], runs
    assert once(seen(got), drop_last), runs


def test_loader_processes_come_and_go(shards: Path) -> None:
    got: list[GlobalBatch] = []
    for world, micro, steps, workers in ((2, 3, 2, 0), (1, 2, 2, 2), (3, 4, 1, 0)):
        config = config_for(shards, workers=workers)
        got += global_batches(config, world, micro, len(got) * GLOBAL, steps)
    assert differences(got, reference(shards)[:5]) == []
    assert once(seen(got), drop_last=False)


def once(pairs: list[tuple[int, int]], drop_last: bool) -> bool:
    """Whether the first two epochs hold every sample once, or with drop_last a whole number of batches of it."""
    length = SAMPLES if not drop_last else SAMPLES // GLOBAL * GLOBAL
    epochs = [Counter(sample for epoch, sample in pairs if epoch == number) for number in (0, 1)]
    in_order = [epoch for epoch, _ in pairs] == [number // length for number in range(len(pairs))]
    return in_order and all(len(epoch) == epoch.total() == length for epoch in epochs) and len(set(pairs)) == len(pairs)


def test_what_was_prefetched_and_not_consumed_comes_again(shards: Path) -> None:
    """Two processes run several batches ahead; the position counts what was taken, so nothing of it is lost."""
    taken = global_batches(config_for(shards, workers=2, prefetch=4), 1, 6, 0, 2)  # up to 8 more are thrown away
    resumed = global_batches(config_for(shards, workers=1, prefetch=4), 1, 4, 2 * GLOBAL, 4)
    assert differences(taken + resumed, reference(shards)[:6]) == []
    assert once(seen(taken + resumed), False)
