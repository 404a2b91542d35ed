"""The two codecs of the sharding script: `original` keeps the source's bytes, `tiff` the pixels; both are WebDataset."""

import io
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from conftest import write_camvid
from msanet.data.image.codec import CODECS, decode_image, decode_label
from msanet.data.manifest import load_manifest
from msanet.data.samples import decode_sample, open_pair
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.errors import UserError
from sharding.__main__ import main as shard


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("camvid"), train=5, val=2)


@pytest.fixture(scope="module")
def packed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in shards of each codec; `tiff` without being asked for."""
    folder = tmp_path_factory.mktemp("packed")
    common = ["camvid", "--source", str(tree), "--workers", "1"]
    assert shard([*common, "--out", str(folder / "tiff")]) == 0
    assert shard([*common, "--out", str(folder / "original"), "--codec", "original"]) == 0
    return {codec: folder / codec for codec in CODECS}


def test_tiff_is_the_default(packed: dict[str, Path]) -> None:
    assert {codec: load_manifest(folder).codec for codec, folder in packed.items()} == {
        "tiff": "tiff",
        "original": "original",
    }
    sample = ShardSource(LocalStorage(packed["tiff"]), "train").read(0)
    assert list(sample) == ["__key__", "__url__", "image.tif", "label.tif"]


def test_original_passes_the_bytes_of_the_source_on(packed: dict[str, Path], tree: Path) -> None:
    source = ShardSource(LocalStorage(packed["original"]), "train")
    found = {source.key(number): source.read(number)["image.png"] for number in range(len(source))}
    assert found == {file.stem: file.read_bytes() for file in (tree / "train").iterdir()}


def test_both_give_the_same_pixels(packed: dict[str, Path]) -> None:
    sources = [ShardSource(LocalStorage(packed[codec]), "train") for codec in CODECS]
    assert len(sources[0]) == len(sources[1]) == 5
    for number in range(5):
        assert sources[0].key(number) == sources[1].key(number)
        (image, label), (other_image, other_label) = (decode_sample(source.read(number)) for source in sources)
        assert np.array_equal(image, other_image) and np.array_equal(label, other_label)
        assert image.shape == (36, 44, 3) and len(np.unique(label)) > 2


def read(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("codec", CODECS)
def test_webdataset_reads_both(packed: dict[str, Path], codec: str) -> None:
    source = ShardSource(LocalStorage(packed[codec]), "train")
    urls = [str(packed[codec] / info.file) for info in source.info.shards]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode(wds.handle_extension("tif png", read)))
    assert len(samples) == 5
    for number, sample in enumerate(samples):
        image, label = decode_sample(source.read(number))
        extension = {"tiff": "tif", "original": "png"}[codec]
        assert sample["__key__"] == source.key(number)
        assert np.array_equal(sample[f"image.{extension}"], image)
        assert np.array_equal(sample[f"label.{extension}"], label)
        assert (sample["json"]["height"], sample["json"]["width"]) == image.shape[:2]


def test_webdatasets_own_image_handler_needs_the_extension(packed: dict[str, Path]) -> None:
    (url,) = map(str, packed["tiff"].glob("train-*.tar"))
    (sample, *_) = wds.WebDataset(url, shardshuffle=False).decode(wds.imagehandler("rgb8", ["tif"]))
    image, label = decode_sample(ShardSource(LocalStorage(packed["tiff"]), "train").read(0))
    assert np.array_equal(sample["image.tif"], image)
    assert np.array_equal(sample["label.tif"][..., 0], label), "as grey in three channels"


def test_a_sample_without_image_or_label_is_named(packed: dict[str, Path]) -> None:
    sample = ShardSource(LocalStorage(packed["tiff"]), "train").read(0)
    for missing, rest in (("label.tif", "image.tif"), ("image.tif", "label.tif")):
        half = {name: value for name, value in sample.items() if name != missing}
        with pytest.raises(UserError, match=rf"{sample['__key__']}' has the members {rest}, expected image and label"):
            open_pair(half)


def test_members_are_known_by_their_bytes(packed: dict[str, Path]) -> None:
    """A name says nothing of the format, so that shards of other tools read too."""
    original = ShardSource(LocalStorage(packed["original"]), "train").read(1)
    tiff = ShardSource(LocalStorage(packed["tiff"]), "train").read(1)
    assert np.array_equal(
        decode_image(original["image.png"], "image.tif"), decode_image(tiff["image.tif"], "image.png")
    )
    assert np.array_equal(
        decode_label(original["label.png"], "label.tif"), decode_label(tiff["label.tif"], "label.png")
    )
