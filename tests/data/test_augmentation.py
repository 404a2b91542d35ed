"""Presets, and everything at once: the same samples on any ranks and after any resume, with labels that are valid."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msanet.config import Config, parse_config
from msanet.config.augmentation import PRESETS
from msanet.data.image.color import choose_jitter, sample_rng
from msanet.data.image.crop import choose_crops, crop_pair
from msanet.data.loader import plan_batches, shuffle_config, shuffle_order, train_loader, train_source
from msanet.data.manifest import load_manifest
from msanet.data.samples import open_pair
from support.errors import raises_user_error

GLOBAL = 12
FIELDS = ("epochs_N", "samples_N", "images_NHWC", "labels_NHW", "jitter_N3")
EVERYTHING: dict[str, Any] = {
    "augment": "strong",
    "rare_class_crops": 0.5,
    "cutmix": 0.3,
    "classmix": 0.3,
    "copy_paste": 0.3,
    "transforms": [f"{__file__}:shift_by_random_rows"],
}


def shift_by_random_rows(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    rows = int(rng.integers(1, 6))
    return np.roll(image, rows, axis=0), np.roll(label, rows, axis=0)


def config_for(shards: Path, **data: Any) -> Config:
    common = {"path": str(shards), "crop": [30, 40], "random_scale": [0.6, 1.5], "num_workers": 0}
    return parse_config({"data": {**common, **data}, "trainer": {"global_batch_size": GLOBAL}}, "test")


def global_batches(config: Config, world: int, micro: int, start: int, steps: int) -> list[dict[str, np.ndarray]]:
    """What all ranks get from step `start` on, joined in order; everything is built again, as in new processes."""
    manifest = load_manifest(Path(config.data.source))
    ranks = []
    for rank in range(world):
        order, source = shuffle_order(manifest, "train", shuffle_config(config)), train_source(config, manifest)
        loader = train_loader(config, order, source, plan_batches(GLOBAL, micro, world), rank, start * GLOBAL)
        ranks.append(list(islice(loader, steps)))
    return [
        {name: np.concatenate([getattr(batch, name).numpy() for share in shares for batch in share]) for name in FIELDS}
        for shares in zip(*ranks, strict=True)
    ]


def assert_equal(found: list[dict[str, np.ndarray]], wanted: list[dict[str, np.ndarray]]) -> None:
    assert len(found) == len(wanted)
    for step, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert [(step, name) for name in FIELDS if not np.array_equal(one[name], other[name])] == []


def test_everything_is_the_same_on_any_ranks_and_after_a_resume(shards: Path) -> None:
    config = config_for(shards, **EVERYTHING)
    wanted = global_batches(config, 1, GLOBAL, 0, 5)  # into the third epoch
    assert_equal(global_batches(config, 2, 3, 0, 3) + global_batches(config, 3, 1, 3, 2), wanted)
    classes = len(load_manifest(shards).classes)
    values = np.unique([batch["labels_NHW"] for batch in wanted])
    assert set(values) <= {*range(classes), 255} and len(values) > 2
    plain = global_batches(config_for(shards), 1, GLOBAL, 0, 5)
    for batch, without in zip(wanted, plain, strict=True):
        assert np.array_equal(batch["samples_N"], without["samples_N"])  # each sample once, as without
        assert all((a != b).any() for a, b in zip(batch["images_NHWC"], without["images_NHWC"], strict=True))


@pytest.mark.parametrize("jitter_on", ["device", "loader"])
def test_at_strength_0_a_sample_is_what_scale_crop_and_flip_make_of_it(shards: Path, jitter_on: str) -> None:
    config = config_for(shards, brightness=0.3 if jitter_on == "device" else 0.0, jitter_on=jitter_on)
    (batch,) = global_batches(config, 1, GLOBAL, 0, 1)
    source = train_source(config, load_manifest(shards))
    for i, number in enumerate(batch["samples_N"].tolist()):
        rng = sample_rng(0, 0, number)
        image, label = open_pair(source.read(number))
        crops = choose_crops(image.size, config.data, rng)
        want = crop_pair(image, label, crops, 1.0, (124, 116, 104))
        assert np.array_equal(batch["images_NHWC"][i], want[0]) and np.array_equal(batch["labels_NHW"][i], want[1])
        jitter = choose_jitter(config.data, rng) if jitter_on == "device" else (1, 1, 1)
        assert np.array_equal(batch["jitter_N3"][i], np.array(jitter, np.float32))


def test_presets_set_what_is_not_given() -> None:
    def data(**given: Any) -> dict[str, Any]:
        return parse_config({"data": given}, "test").data.model_dump(exclude={"augment"})

    assert data() == data(augment="none")
    for name, values in PRESETS.items():
        assert data(augment=name) == {**data(), **values}
        assert data(augment=name, hue=0.0, blur=0.9) == {**data(), **values, "hue": 0.0, "blur": 0.9}


def test_what_a_run_writes_down_is_read_as_the_same() -> None:
    config = parse_config({"data": {"augment": "strong", "hue": 0.0}}, "test")
    again = parse_config(config.model_dump(mode="json"), "test")
    assert again == config and again.data.hue == 0 and again.data.rotation == 10


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({"augment": "medium"}, "data.augment"),
        ({"hue": 0.7}, "data.hue"),
        ({"rotation": -1}, "data.rotation"),
        ({"shear": 60}, "data.shear"),
        ({"perspective": 1}, "data.perspective"),
        ({"gamma": 1}, "data.gamma"),
        ({"blur": 2}, "data.blur"),
    ],
)
def test_values_out_of_range_are_refused(given: dict[str, Any], setting: str) -> None:
    with raises_user_error("MSA-CONFIG-005", setting=setting):
        parse_config({"data": given}, "test")
