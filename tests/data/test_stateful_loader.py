"""Our loader in loops of others: every sample once per epoch, and a state for any number of ranks."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msanet.config import parse_config
from msanet.data import Loader, ShardDataset
from msanet.data.epoch_plan import EpochPlan
from msanet.data.image.color import color_jitter, normalize
from msanet.data.loader import plan_batches, shuffle_config, shuffle_order, train_loader, train_source
from msanet.data.manifest import load_manifest
from support.errors import raises_user_error

SAMPLES = 26
AUGMENTATION: dict[str, Any] = {
    "crop": (30, 40),
    "random_scale": (0.6, 1.5),
    "brightness": 0.3,
    "shuffle_block_bytes": 10_000,
}


def dataset(shards: Path, **settings: Any) -> ShardDataset:
    return ShardDataset(shards, **{**AUGMENTATION, "seed": 3, **settings})


def loaders(shards: Path, world: int, batch: int, state: Any = None, **options: Any) -> list[Loader]:
    """Of all ranks, each as in a process of its own."""
    ranks = [
        Loader(dataset(shards), batch, rank=rank, world_size=world, num_workers=0, **options) for rank in range(world)
    ]
    for loader in ranks:
        if state:
            loader.load_state_dict(state)
    return ranks


def ids(batches: list[dict[str, torch.Tensor]]) -> list[tuple[int, int]]:
    return [pair for batch in batches for pair in zip(batch["epochs"].tolist(), batch["samples"].tolist(), strict=True)]


def epochs(loader: Loader, count: int) -> Iterator[dict[str, torch.Tensor]]:
    """The batches up to the end of epoch number `count`, as a training takes them."""
    while loader.epoch < count:
        yield from loader


@pytest.mark.parametrize("world", range(1, 9))
@pytest.mark.parametrize("batch_size", range(1, 6))
def test_every_rank_has_a_sample_in_every_batch_and_no_sample_comes_twice(world: int, batch_size: int) -> None:
    for length in range(world, 40):
        plan, position, seen = EpochPlan(length, batch_size, world, is_train=True), 0, list[int]()
        for epoch in range(3):
            batches = list(plan.batches(position))
            seen += [number for batch in batches for number in batch]
            assert all(1 <= len(plan.share(batch, rank)) <= batch_size for batch in batches for rank in range(world))
            position = plan.after(batches[-1])
            excess = position - (epoch + 1) * length
            assert 0 <= excess < world and (batch_size == 1 or not excess or length < 2 * world)
            assert epoch or len(batches) == plan.length(0)
        assert seen == list(range(position))


@pytest.mark.parametrize(("world", "batch_size", "length"), [(3, 2, 7), (4, 3, 26), (5, 1, 3), (2, 4, 16)])
def test_an_evaluation_has_uneven_ranks_and_dropping_only_full_batches(
    world: int, batch_size: int, length: int
) -> None:
    evaluation = EpochPlan(length, batch_size, world, is_train=False)
    shares = [[evaluation.share(batch, rank) for batch in evaluation.batches(0)] for rank in range(world)]
    assert sorted(number for rank in shares for share in rank for number in share) == list(range(length))
    assert [evaluation.length(rank) for rank in range(world)] == [sum(map(bool, rank)) for rank in shares]
    full = EpochPlan(length, batch_size, world, is_train=True, drop_last=True)
    batches = list(full.batches(0))
    assert len(batches) == full.length(0) and {len(batch) for batch in batches} <= {world * batch_size}
    assert not batches or full.after(batches[-1]) == length


def test_batches_are_those_of_the_trainer(shards: Path) -> None:
    data = {**AUGMENTATION, "path": str(shards), "num_workers": 0}
    config = parse_config({"run": {"seed": 3}, "data": data, "trainer": {"global_batch_size": 6, "steps": 9}}, "test")
    order = shuffle_order(load_manifest(shards), "train", shuffle_config(config))
    source = train_source(config, load_manifest(shards))
    for rank in (0, 1):
        theirs = [batch for (batch,) in islice(train_loader(config, order, source, plan_batches(6, 3, 2), rank, 0), 4)]
        ours = [list(islice(loaders(shards, 2, 3, output=output)[rank], 4)) for output in ("batch", "tuple")]
        for batch, same, (images, labels) in zip(theirs, *ours, strict=True):
            assert torch.equal(batch.images_NHWC, same.images_NHWC) and torch.equal(batch.jitter_N3, same.jitter_N3)
            jittered = color_jitter(batch.images_NHWC, batch.jitter_N3)
            assert torch.equal(images, normalize(jittered, config.data.mean, config.data.std))
            assert torch.equal(labels, batch.labels_NHW.long()) and images.dtype == torch.float32


def test_a_state_continues_on_any_number_of_ranks(shards: Path) -> None:
    """Pixel for pixel, into the third epoch; only an epoch's last batches are of other sizes."""
    (whole,) = loaders(shards, 1, 6)
    wanted = [batch for _ in range(3) for batch in whole]
    state, got = None, list[Any]()
    for world, batch, steps in ((1, 6, 3), (3, 2, 4), (2, 3, 1), (6, 1, 2), (1, 6, 9)):
        ranks = loaders(shards, world, batch, state)
        parts = [list(islice(epochs(loader, 3), steps)) for loader in ranks]
        assert len({loader.state_dict()["consumed_samples"] for loader in ranks}) == 1
        state = ranks[0].state_dict()
        got += [
            {name: torch.cat([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
        ]
    for name in wanted[0]:
        assert torch.equal(*(torch.cat([batch[name] for batch in batches]) for batches in (got, wanted))), name
    assert [sorted(ids(wanted)[n : n + SAMPLES]) for n in (0, 26, 52)] == [
        [(epoch, number) for number in range(SAMPLES)] for epoch in range(3)
    ]


def test_what_was_prefetched_is_not_in_the_state(shards: Path) -> None:
    loader = Loader(dataset(shards), 4, num_workers=1, prefetch_factor=4)
    first = list(islice(loader, 2))
    again = Loader(dataset(shards), 4, num_workers=0)
    again.load_state_dict(loader.state_dict())
    assert sorted(ids([*first, *again])) == [(0, number) for number in range(SAMPLES)]


def test_each_iter_begins_the_next_epoch(shards: Path) -> None:
    (loader,) = loaders(shards, 1, 4)
    iter(loader), next(iter(loader))
    assert loader.epoch == 0
    assert {epoch for epoch, _ in ids(list(loader))} == {1}, "the first was abandoned"
    assert {epoch for epoch, _ in ids(list(islice(loader, len(loader))))} == {2}, "a loop that knows the length"
    assert {epoch for epoch, _ in ids(list(loader))} == {3} and len(loader) == 7


def test_a_framework_may_say_which_epoch_is_next(shards: Path) -> None:
    (loader,) = loaders(shards, 1, 4)
    loader.set_epoch(2)
    first = ids([next(iter(loader))])
    state = loader.state_dict()
    (other,) = loaders(shards, 1, 4, state)
    other.set_epoch(2)
    assert sorted(first + ids(list(other))) == [(2, number) for number in range(SAMPLES)], "the position in it stays"


def test_an_evaluation_sees_whole_images_once_in_order(shards: Path) -> None:
    for world in (1, 3):
        ranks = [Loader(ShardDataset(shards, "val"), 2, rank=r, world_size=world, num_workers=0) for r in range(world)]
        for _ in range(2):
            epochs = [list(loader) for loader in ranks]
            assert sorted(ids([batch for epoch in epochs for batch in epoch])) == [(0, number) for number in range(7)]
            assert [len(epoch) for epoch in epochs] == list(map(len, ranks))
        assert epochs[0][0]["images"].shape[1:] == (3, 36, 44)
    state_of = ranks[0]
    next(iter(state_of))
    rest = Loader(ShardDataset(shards, "val"), 6, rank=0, world_size=1, num_workers=0)
    rest.load_state_dict(state_of.state_dict())
    assert [number for _, number in ids(list(rest))] == [6]


def test_outputs_and_uint8(shards: Path) -> None:
    (loader,) = loaders(shards, 1, 4, output="transformers", normalize=False)
    batch = next(iter(loader))
    assert batch.keys() == {"pixel_values", "labels"} and batch["pixel_values"].dtype == torch.uint8
    assert batch["pixel_values"].shape == (4, 3, 30, 40) and batch["labels"].dtype == torch.int64
    (own,) = loaders(shards, 1, 4, output=lambda batch: len(batch.samples_N))
    assert next(iter(own)) == 4


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"dataset": "other 123"}, "dataset"),
        ({"seed": 4}, "seed"),
        ({"split": "val"}, "split"),
        ({"batch_size": 3}, "batch_size"),
        ({"drop_last": True}, "drop_last"),
        ({"format_version": 2}, None),
        ({"consumed_samples": "7"}, None),
    ],
)
def test_a_foreign_state_is_refused(shards: Path, change: dict[str, Any], setting: str | None) -> None:
    (loader,) = loaders(shards, 1, 4)
    with raises_user_error("MSA-DATA-736", setting=setting):
        loader.load_state_dict({**loader.state_dict(), **change})
    with raises_user_error("MSA-DATA-736"):
        loader.load_state_dict({})


def test_bad_arguments_are_refused(shards: Path) -> None:
    train = dataset(shards)
    for options in ({"batch_size": 0}, {"num_workers": -1}, {"rank": 0}, {"rank": 2, "world_size": 2}, {"output": "x"}):
        with raises_user_error("MSA-DATA-738", setting=next(iter(options))):
            Loader(train, **options)
    with raises_user_error("MSA-DATA-738", setting="crop"):
        ShardDataset(shards, "val", crop=(2, 2))
    with raises_user_error("MSA-DATA-738", setting="path"):
        ShardDataset()
    with raises_user_error("MSA-DATA-001"):
        ShardDataset(shards, "valid")
    with raises_user_error("MSA-DATA-738", setting="batch_size", mentions="26"):
        next(iter(Loader(train, 27, num_workers=0, drop_last=True)))
    with raises_user_error("MSA-CONFIG-004", mentions="data.crops"):
        ShardDataset(shards, crops=3)


def test_rank_and_world_size_come_from_the_launcher(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(dataset(shards), 4, num_workers=0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert np.array_equal(next(iter(loader))["samples"], next(iter(loaders(shards, 2, 4)[1]))["samples"])
