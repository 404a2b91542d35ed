"""The compact index gives back what was written, and forgetting it does no harm."""

from pathlib import Path

import pytest

from msanet.config import parse_config
from msanet.data import shard_source as source_module
from msanet.data.manifest import MANIFEST_NAME, IndexTable, Manifest, Member, SampleIndex, SplitInfo
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.training.train import train
from support.errors import raises_user_error


def test_a_table_gives_back_the_records() -> None:
    far = 2**61  # a shard of any size
    samples = tuple(
        SampleIndex(
            key=key,
            members=tuple(
                Member(extension=name, offset=far + 10 * i, length=5 + i, crc32=2**32 - 1 - i)
                for i, name in enumerate(names)
            ),
        )
        for key, names in (
            ("a", ["image.tif", "label.tif"]),
            ("ä_long", ["json", "image.png", "label.png"]),
            ("b", ["x"]),
        )
    )
    table = IndexTable(samples)
    assert [table.sample(place) for place in range(3)] == list(samples)
    assert [table.key(place) for place in range(3)] == ["a", "ä_long", "b"]
    assert table.span(range(0, 2)) == (far, far + 27)


def test_indexes_that_do_not_fit_are_read_again(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ShardSource(LocalStorage(shards), "train")
    wanted = [whole.read(number) for number in range(26)]
    monkeypatch.setattr(source_module, "_INDEX_BYTES", 1)
    small = ShardSource(LocalStorage(shards), "train")
    assert [small.read(number) for number in range(26)] == wanted
    assert len(small._indexes) == 1 < len(whole._indexes)
    assert small._index_bytes == sum(table.bytes for table in small._indexes.values())


def test_a_split_without_a_labelled_pixel_cannot_be_trained_on(tmp_path: Path) -> None:
    empty = SplitInfo(samples=0, shards=(), histogram=(0, 0), ignored=77)
    full = empty.model_copy(update={"histogram": (0, 1)})
    manifest = Manifest(
        name="toy",
        classes=("a", "b"),
        palette=((0, 0, 0), (1, 1, 1)),
        ids=(0, 1),
        ignore_index=255,
        codec="tiff",
        splits={"train": empty, "val": full},
    )
    manifest.require_labels("val")
    with raises_user_error("MSA-DATA-103", setting="data.train_split", mentions="77"):
        manifest.require_labels("train")
    (tmp_path / MANIFEST_NAME).write_text(manifest.to_json())
    with raises_user_error("MSA-DATA-103"):
        train(parse_config({"data": {"path": str(tmp_path)}, "trainer": {"steps": 1}}, "test"))
