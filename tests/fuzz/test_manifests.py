"""dataset.json and the indexes beside the shards, when others wrote them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.hostile import altered, damaged, outcome
from msanet.data.manifest import MANIFEST_NAME, Manifest, ShardIndex, index_name, validate_json
from msanet.data.samples import decode_sample
from msanet.data.shard_source import ShardSource
from msanet.data.shuffle_order import ShuffleConfig, ShuffleOrder
from msanet.data.storage import LocalStorage
from msanet.documents import is_line
from msanet.errors import UserError


@pytest.fixture(scope="module")
def copied(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(shards, tmp_path_factory.mktemp("hostile") / "shards")


def read_all(folder: Path) -> str:
    """What a training does: the manifest, the order, one sample of each shard and its pixels."""
    source = ShardSource(LocalStorage(folder), "val")
    shards = source.info.shards
    order = ShuffleOrder(ShuffleConfig(0, 2, 8, 2**14), [s.samples for s in shards], [s.bytes for s in shards])
    assert order.num_samples == len(source)
    for number in range(min(len(source), 3)):
        decode_sample(source.read(number))
        source.fetch(number)
        assert is_line(source.key(number)) and "/" not in source.key(number)
    return "read"


@given(st.data())
def test_any_manifest_is_read_or_refused_in_a_sentence(shards: Path, copied: Path, data: st.DataObject) -> None:
    manifest = json.loads((shards / MANIFEST_NAME).read_bytes())
    text = data.draw(altered(manifest) | damaged(json.dumps(manifest).encode()) | st.binary(max_size=200))
    (copied / MANIFEST_NAME).write_bytes(text)
    assert outcome(read_all, copied) == "read" or isinstance(outcome(read_all, copied), UserError)


@given(st.data())
def test_any_index_is_read_or_refused_in_a_sentence(shards: Path, copied: Path, data: st.DataObject) -> None:
    shutil.copy(shards / MANIFEST_NAME, copied)
    name = index_name(Manifest.model_validate_json((shards / MANIFEST_NAME).read_bytes()).split("val").shards[0].file)
    index: dict[str, Any] = json.loads((shards / name).read_bytes())
    samples = {**index, "samples": index["samples"]}
    text = data.draw(altered(samples) | damaged(json.dumps(index).encode()) | st.binary(max_size=200))
    (copied / name).write_bytes(text)
    found = outcome(read_all, copied)
    shutil.copy(shards / name, copied)
    assert found == "read" or isinstance(found, UserError)


def test_samples_without_place_in_the_shard_are_refused(shards: Path, copied: Path) -> None:
    shutil.copy(shards / MANIFEST_NAME, copied)
    name = index_name("val-000000.tar")
    changes: tuple[dict[str, Any], ...] = ({"members": []}, {"key": "../x"}, {"key": "a\nb"})
    for change in changes:
        index = json.loads((shards / name).read_bytes())
        index["samples"][0].update(change)
        (copied / name).write_text(json.dumps(index))
        assert "not in the shard's order" in str(outcome(read_all, copied)), change
    shutil.copy(shards / name, copied)


@given(
    st.binary(max_size=300) | st.sampled_from([b"[" * 10**6, b'{"a":' * 10**5, b"9" * 10**6, b'"' + b"\\u0000" * 10**5])
)
def test_no_bytes_are_too_odd(data: bytes) -> None:
    for kind in (Manifest, ShardIndex):
        assert isinstance(outcome(validate_json, kind, data, "x.json"), UserError)
