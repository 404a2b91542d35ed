"""`msanet verify` on shards that somebody else made."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.hostile import altered, damaged, outcome
from msanet.data.manifest import MANIFEST_NAME, index_name, load_manifest
from msanet.documents import is_line
from msanet.errors import UserError
from sharding.verify import find_problems


@pytest.fixture(scope="module")
def copied(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(shards, tmp_path_factory.mktemp("tars") / "shards")


def verified(folder: Path) -> list[str]:
    return [str(problem) for problem in find_problems(folder, load_manifest(folder), 1, lambda _: None)]


@given(data=st.data())
def test_any_damage_is_one_line_for_each_fault(shards: Path, copied: Path, data: st.DataObject) -> None:
    tar = load_manifest(shards).split("val").shards[0].file
    name = data.draw(st.sampled_from([tar, tar, index_name(tar), MANIFEST_NAME]))
    whole = (shards / name).read_bytes()
    hostile = damaged(whole, header=600) if name == tar else altered(json.loads(whole)) | damaged(whole)
    (copied / name).write_bytes(data.draw(hostile))
    changed = (copied / name).read_bytes() != whole
    lines = outcome(verified, copied)
    shutil.copy(shards / name, copied)
    assert isinstance(lines, UserError) or all(map(is_line, lines))
    assert lines or name != tar or not changed, "a changed tar is always found"


def test_sound_shards_have_no_fault(shards: Path) -> None:
    assert verified(shards) == []
