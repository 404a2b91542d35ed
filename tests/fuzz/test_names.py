"""Names from files of others lead nowhere but into their own folder."""

import os
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fuzz.hostile import NAMES, outcome
from msanet.cli.predict import _find_files as find_files
from msanet.data.manifest import FileName, SplitName, safe_key
from msanet.errors import UserError
from sharding.plan import check_split as check_split
from sharding.readers.reader import make_pair
from sharding.tree import FolderTree, checked_name, open_tree

names = (
    st.sampled_from(NAMES)
    | st.text(max_size=30)
    | st.lists(st.sampled_from(["..", ".", "a", "", "C:", "\\"]), max_size=5).map("/".join)
)


@given(names)
def test_a_name_in_a_manifest_stays_in_its_folder(name: str) -> None:
    for kind in (FileName, SplitName):
        try:
            TypeAdapter(kind).validate_python(name)
        except ValidationError:
            continue
        assert os.path.basename(name) == name and name.strip(".") and name.isprintable() and len(name) < 256


@given(names)
def test_a_key_is_one_plain_word(name: str) -> None:
    key = safe_key(name)
    assert 0 < len(key.encode()) <= 80 and not re.search(r"[\s./\\:*?\"<>|\x00-\x1f]", key) and key.isprintable()


@given(names, names)
def test_two_names_have_two_keys(one: str, other: str) -> None:
    assert (safe_key(one) == safe_key(other)) == (one == other)


@given(names)
def test_a_name_of_a_source_stays_in_it(name: str) -> None:
    inside = outcome(checked_name, name, "source.zip")
    assert isinstance(inside, UserError) or os.path.normpath(f"/source/{name}").startswith("/source")


@given(names)
def test_a_split_that_cannot_name_a_shard_is_refused(name: str) -> None:
    refused = isinstance(outcome(check_split, name, [make_pair("a", "a.png", "a.png")]), UserError)
    assert refused or (os.path.basename(f"{name}-000000.tar") == f"{name}-000000.tar" and len(name) <= 100)


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "..\\b.png", "C:\\x.png", "a\n.png"])
def test_a_zip_with_such_a_name_is_refused_whole(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    assert isinstance(outcome(open_tree, [tmp_path / "a.zip"]), UserError)


def test_links_in_a_folder_are_followed_but_none_is_walked_forever(tmp_path: Path) -> None:
    """A link is the user's own way to lay out a disk; a loop of them is no folder."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "loop").symlink_to("loop")
    (tmp_path / "source" / "up").symlink_to("..")
    os.mkfifo(tmp_path / "source" / "pipe.png")
    tree = FolderTree(tmp_path / "source")
    assert tree.files("") == ["loop"] and tree.folders("") == ["up"]
    assert isinstance(outcome(tree.read, "loop"), UserError)


def test_links_to_nothing_are_predicted_to_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    for name, target in (("dead.png", "gone.png"), ("loop.png", "loop.png")):
        (folder / name).symlink_to(target)
    for word in (folder, folder / "*.png", folder / "**"):
        found = find_files([str(word)], tmp_path / "out", None)
        assert [path.name for path, _ in found] == ["dead.png", "loop.png"]


def test_predictions_stay_under_out(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "in" / "a.png").write_bytes(b"")
    for word in (
        tmp_path / "in",
        tmp_path / "in" / "*.png",
        tmp_path / "in" / "deep" / ".." / "*.png",
        tmp_path / "in" / "*" / ".." / ".." / "*.png",
    ):
        found = outcome(find_files, [str(word)], tmp_path / "out", None)
        for _, name in [] if isinstance(found, UserError) else found:
            assert os.path.normpath(tmp_path / "out" / name).startswith(str(tmp_path / "out") + "/"), word
