"""What reaches the trainer: the same samples and the same pixels whatever ranks, micro-batches, workers and resumes."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msanet.config import Config, parse_config
from msanet.data.loader import (
    evaluation_loader,
    plan_batches,
    shuffle_config,
    shuffle_order,
    train_loader,
    train_source,
)
from msanet.data.manifest import load_manifest
from msanet.data.pipeline import Batch
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.errors import UserError
from support.errors import raises_user_error


def config_for(shards: Path, **data: Any) -> Config:
    settings = {
        "path": str(shards),
        "crop": [30, 40],
        "random_scale": [0.6, 1.5],
        "flip_vertical": 0.5,
        "brightness": 0.3,
        "num_workers": 0,
    }
    return parse_config({"data": {**settings, **data}, "trainer": {"global_batch_size": 6, "steps": 9}}, "test")


def stream(
    config: Config, world: int = 1, rank: int = 0, micro: int | None = None, start: int = 0, steps: int = 6
) -> list[list[Batch]]:
    """`steps` optimizer steps of one rank from step `start` on."""
    manifest = load_manifest(Path(config.data.source))
    source = train_source(config, manifest)
    order = shuffle_order(manifest, "train", shuffle_config(config))
    batches = plan_batches(6, micro, world)
    return list(islice(train_loader(config, order, source, batches, rank, start * 6), steps))


def flatten(steps: list[list[Batch]]) -> list[dict[str, np.ndarray]]:
    """Per step, everything about its samples in order, micro-batches joined."""
    return [
        {
            name: np.concatenate([getattr(b, name).numpy() for b in step])
            for name in vars(step[0])
            if name != "bad_samples"
        }
        for step in steps
    ]


def join_ranks(ranks: list[list[dict[str, np.ndarray]]]) -> list[dict[str, np.ndarray]]:
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*ranks, strict=True)
    ]


def same(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]]) -> bool:
    return all(np.array_equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_start_of_the_loader_draws_nothing_that_dropout_would(shards: Path, workers: int) -> None:
    """A resumed run starts its loader once more than one that was never stopped."""
    before = torch.get_rng_state()
    stream(config_for(shards, num_workers=workers), steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_pixels_do_not_depend_on_ranks_micro_batches_or_resume(shards: Path) -> None:
    config = config_for(shards)
    whole = flatten(stream(config))
    for world, micro in ((1, 2), (2, None), (3, 1), (6, 1)):
        assert same(whole, join_ranks([flatten(stream(config, world, rank, micro)) for rank in range(world)])), (
            world,
            micro,
        )
    resumed = join_ranks([flatten(stream(config, 2, rank, start=4, steps=2)) for rank in range(2)])
    assert same(whole[4:], resumed)


@pytest.mark.parametrize("workers", [1, 3])
def test_pixels_do_not_depend_on_loader_processes(shards: Path, workers: int) -> None:
    inline = flatten(stream(config_for(shards), world=2, rank=1, micro=1))
    assert same(inline, flatten(stream(config_for(shards, num_workers=workers), world=2, rank=1, micro=1)))


def test_what_crosses_processes_is_uint8(shards: Path) -> None:
    batch = stream(config_for(shards), steps=1)[0][0]
    assert batch.images_NHWC.dtype == batch.labels_NHW.dtype == torch.uint8
    assert batch.images_NHWC.shape == (6, 30, 40, 3) and batch.labels_NHW.shape == (6, 30, 40)


def test_augmentation_differs_between_epochs(shards: Path) -> None:
    steps = flatten(stream(config_for(shards), steps=9))  # 54 samples of 26: two epochs and more
    seen: dict[tuple[int, int], bytes] = {}
    for step in steps:
        for epoch, sample, image in zip(step["epochs_N"], step["samples_N"], step["images_NHWC"], strict=True):
            seen[int(epoch), int(sample)] = image.tobytes()
    assert all(seen[0, sample] != seen[1, sample] for sample in range(26))


def test_evaluation_sees_each_image_once_at_its_own_size(shards: Path) -> None:
    source = ShardSource(LocalStorage(shards), "val")
    for world, workers in ((1, 0), (3, 0), (2, 2)):
        samples = [s for rank in range(world) for s in evaluation_loader(source, rank, world, workers)]
        assert [s.number for s in samples] == list(range(7))
        assert len({s.key for s in samples}) == 7
        assert all(s.image_HWC.shape == (36, 44, 3) and s.label_HW.shape == (36, 44) for s in samples)


def test_sizes_that_make_no_batch_are_refused_also_from_a_worker(shards: Path, tmp_path: Path) -> None:
    config = config_for(shards, crop=None, random_scale=[1.0, 1.0])
    stream(config, steps=1)  # all images are of one size: no crop is needed
    from conftest import write_camvid
    from sharding.__main__ import main

    source = write_camvid(tmp_path / "mixed", 4, 1)
    other = write_camvid(tmp_path / "other", 4, 1, size=(40, 44), seed=1)
    for folder in ("train", "trainannot"):
        for file in (other / folder).iterdir():
            file.rename(source / folder / f"x{file.name}")
    main(["camvid", "--source", str(source), "--out", str(tmp_path / "shards")])
    for workers in (0, 1):
        mixed = config_for(tmp_path / "shards", crop=None, random_scale=[1.0, 1.0], num_workers=workers)
        with raises_user_error("MSA-DATA-011", setting="data.crop") as error:
            stream(mixed, steps=2)
        assert "Traceback" not in str(error.value)


def test_a_split_smaller_than_a_global_batch_is_refused(shards: Path) -> None:
    manifest = load_manifest(shards)
    config = parse_config({"trainer": {"global_batch_size": 27}}, "test")
    with pytest.raises(
        UserError, match=r"26 samples, fewer than one global batch of 27; set trainer.global_batch_size to at most 26"
    ):
        shuffle_order(manifest, "train", shuffle_config(config))
