"""`msanet pack --bands`: exact, alike, measured; and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from msanet.config import parse_config
from msanet.data import ShardDataset
from msanet.data.band_settings import require_shown_bands, with_band_settings
from msanet.data.decoded_cache import DecodedSource
from msanet.data.manifest import BANDS_SCHEMA_VERSION, load_manifest, load_shard_index
from msanet.data.samples import decode_sample
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.data.storage.cache import NodeCache
from sharding.__main__ import main
from sharding.bands import parse_band_numbers
from support.band_images import band_image, classes_file, pack_bands, write_band_folder, write_tiff
from support.errors import error_codes, raises_user_error


@pytest.mark.parametrize("dtype, channels", [("uint16", 12), ("float32", 2), ("uint8", 1), ("uint8", 4)])
def test_bands_come_back_exactly_with_their_statistics(tmp_path: Path, dtype: str, channels: int) -> None:
    images = write_band_folder(tmp_path / "source", channels, dtype)
    out = pack_bands(tmp_path / "source", tmp_path / "shards")
    manifest = load_manifest(out)
    assert manifest.schema_version == BANDS_SCHEMA_VERSION
    assert manifest.image is not None and (manifest.image.channels, manifest.image.dtype) == (channels, dtype)
    source = ShardSource(LocalStorage(out), "train", manifest)
    cached = DecodedSource(source, NodeCache(tmp_path / "cache", 10**8, evict=False))
    for number in range(2):
        for reader in (source, cached, cached):
            image, _ = decode_sample(reader.read(number))
            assert image.dtype == dtype and np.array_equal(image, images[source.key(number)])
    together = np.concatenate([images["a"], images["b"]])
    bands = manifest.split("train").bands
    assert bands is not None
    np.testing.assert_allclose(bands.mean, together.mean(axis=(0, 1), dtype=np.float64))
    np.testing.assert_allclose(bands.std, together.std(axis=(0, 1), dtype=np.float64))
    assert main(["verify", str(out)]) == 0 and main(["inspect", str(out), "--sheet", str(tmp_path / "s.png")]) == 0


def test_chosen_bands_are_packed_in_their_order_and_are_another_dataset(tmp_path: Path) -> None:
    images = write_band_folder(tmp_path / "source")
    out = pack_bands(tmp_path / "source", tmp_path / "shards", bands="8,4,1-2")
    manifest = load_manifest(out)
    assert manifest.image is not None and (manifest.image.bands, manifest.image.source_bands) == ((8, 4, 1, 2), 12)
    image, _ = decode_sample(ShardSource(LocalStorage(out), "val", manifest).read(0))
    assert np.array_equal(image, images["c"][..., [7, 3, 0, 1]])
    pack_bands(tmp_path / "source", out, bands="8,4,1-2")  # again: nothing to do
    with pytest.raises(SystemExit):
        pack_bands(tmp_path / "source", out, bands="all")


def test_manifests_and_indexes_of_rgb_say_nothing_of_bands(tmp_path: Path) -> None:
    write_band_folder(tmp_path / "source", 3, "uint8")
    options = ["--classes", str(classes_file(tmp_path / "source")), "--out", str(tmp_path / "shards"), "--workers", "1"]
    assert main(["folder", "--source", str(tmp_path / "source"), *options]) == 0
    manifest = load_manifest(tmp_path / "shards")
    tree = json.loads((tmp_path / "shards" / "dataset.json").read_text())
    assert "image" not in tree and "bands" not in tree["splits"]["train"] and tree["schema_version"] == 1
    assert "bands" not in json.loads((tmp_path / "shards" / "train-000000.idx.json").read_text())
    assert manifest.image is None and manifest.image_format.is_rgb
    assert load_shard_index(tmp_path / "shards", "train-000000.tar").bands is None


@pytest.mark.parametrize("channels, dtype", [(11, "uint16"), (12, "float32")])
def test_images_that_differ_are_refused_by_name(
    tmp_path: Path, channels: int, dtype: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_band_folder(tmp_path / "source")
    write_tiff(tmp_path / "source" / "images" / "train" / "b.tif", band_image(channels, dtype))
    with pytest.raises(SystemExit):
        pack_bands(tmp_path / "source", tmp_path / "shards")
    error = capfd.readouterr().err
    assert "MSA-PACK-790" in error or ("b.tif" in error and f"{channels} bands of {dtype}" in error)
    out = pack_bands(tmp_path / "source", tmp_path / "shards", "--skip-bad")
    assert load_manifest(out).split("train").samples == 1


@pytest.mark.parametrize("text", ["", "0", "1,1", "4-2", "1-33", "a", "all,1", "1.5"])
def test_a_choice_that_is_no_choice_of_bands_is_refused(text: str) -> None:
    with raises_user_error("MSA-PACK-791", setting="--bands"):
        parse_band_numbers(text)


def test_bands_are_not_for_the_codec_original(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_band_folder(tmp_path / "source")
    with pytest.raises(SystemExit):
        pack_bands(tmp_path / "source", tmp_path / "shards", "--codec", "original")
    assert error_codes(capfd.readouterr().err) == ["MSA-PACK-791"]


def test_normalization_of_a_training_is_measured_or_set(tmp_path: Path) -> None:
    write_band_folder(tmp_path / "source")
    manifest = load_manifest(pack_bands(tmp_path / "source", tmp_path / "shards"))
    measured = manifest.split("train").bands
    assert measured is not None and manifest.image is not None

    def settings(**data: object) -> object:
        return with_band_settings(parse_config({"data": data}, "test").data, manifest)

    assert getattr(settings(), "mean", None) == measured.mean
    assert getattr(settings(mean=[1] * 12, std=[2] * 12), "std", None) == (2.0,) * 12
    with raises_user_error("MSA-DATA-794", setting="data.mean", mentions="12"):
        settings(mean=[1, 2, 3], std=[1, 1, 1])
    with raises_user_error("MSA-DATA-794", setting="data.std"):
        settings(mean=[1] * 12)
    with raises_user_error("MSA-DATA-795", setting="data.saturation"):
        settings(saturation=0.5)
    with raises_user_error("MSA-DATA-795", setting="data.transforms"):
        settings(transforms=["my_transforms.py:TRAIN"])
    with raises_user_error("MSA-DATA-796", setting="report.bands"):
        require_shown_bands((1, 2, 13), manifest.image)


def test_a_loader_of_ones_own_gets_normalized_bands(tmp_path: Path) -> None:
    write_band_folder(tmp_path / "source")
    out = pack_bands(tmp_path / "source", tmp_path / "shards")
    sample = next(iter(ShardDataset(out, "train", crop=(64, 64), contrast=0.1)))
    assert sample["images"].shape == (12, 64, 64) and sample["images"].std() < 3
