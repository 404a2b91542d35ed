"""The compact index gives back what was written, and forgetting it does no harm."""

from pathlib import Path

import pytest

from msanet.data import shard_source as source_module
from msanet.data.manifest import IndexTable, Member, SampleIndex
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage


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
