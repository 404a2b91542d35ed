"""Splits at random: a pure function of seed and names."""

from pathlib import Path

import numpy as np
import pytest

from sharding.readers.splitting import RandomSplit
from support.annotations import Annotated, png
from support.errors import error_codes

Capture = pytest.CaptureFixture[str]
IDS = [f"clip{number // 10:02d}_{number:04d}" for number in range(3000)]


def test_shares_are_about_what_was_asked_for_and_another_seed_is_another_choice() -> None:
    split = RandomSplit((("val", 0.1), ("test", 0.2)))
    found = [split.split_of(id) for id in IDS]
    assert (found.count("val"), found.count("test")) == (284, 617)  # of 3000: about 300 and 600
    assert found != [RandomSplit(split.shares, seed=1).split_of(id) for id in IDS]
    assert [split.split_of(id) for id in "efgh"] == ["train", "test", "train", "val"]  # for ever


def test_a_larger_share_only_adds_to_the_first_split() -> None:
    small, large = ({id for id in IDS if RandomSplit((("val", share),)).split_of(id) == "val"} for share in (0.1, 0.2))
    assert small < large


def test_folds_take_turns() -> None:
    folds = [{id for id in IDS if RandomSplit(fold=(number, 5)).split_of(id) == "val"} for number in range(1, 6)]
    assert set.union(*folds) == {*IDS} and sum(map(len, folds)) == len(IDS)
    assert all(500 < len(fold) < 700 for fold in folds)


@pytest.fixture
def source(tmp_path: Path, capfd: Capture) -> Annotated:
    made = Annotated(tmp_path, "folder", capfd)
    made.write("labels.txt", "background\nroad\n")
    for clip in range(8):
        for frame in range(3):
            made.photos(f"images/clip{clip}_{frame}.jpg")
            made.write(f"masks/clip{clip}_{frame}.png", png(np.zeros((20, 24), np.uint8)))
    return made


def test_frames_of_a_group_stay_together(source: Annotated) -> None:
    said = source.pack("--random-split", "val=0.3", "--group-by", r"clip(\d+)_")
    splits = source.splits()
    groups = {split: {id.partition("_")[0] for id in ids} for split, ids in splits.items()}
    assert not groups["train"] & groups["val"] and all(len(splits[split]) == 3 * len(groups[split]) for split in splits)
    assert "8 groups are split at random (seed 0)" in said


def test_a_file_that_is_added_moves_no_other(source: Annotated, tmp_path: Path) -> None:
    source.pack("--random-split", "val=0.3", "test=0.2", "--seed", 4)
    before = source.splits()
    source.photos("images/new.jpg")
    source.write("masks/new.png", (source.root / "masks/clip0_0.png").read_bytes())
    source.out = tmp_path / "again"
    source.pack("--random-split", "val=0.3", "test=0.2", "--seed", 4)
    assert {split: [id for id in ids if id != "new"] for split, ids in source.splits().items()} == before


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--group-by", "x"], "MSA-PACK-756"),
        (["--fold", "1/2", "--random-split", "val=0.5"], "MSA-PACK-756"),
        (["--random-split", "val=0.5", "test=0.5"], "MSA-PACK-756"),
        (["--random-split", "val=0.5", "--group-by", "clip[0-6]"], "MSA-PACK-757"),
        (["--random-split", "val=0.0001"], "MSA-PACK-758"),
        (["--fold", "3/2"], "MSA-CLI-001"),
        (["--random-split", "train=0.5"], "MSA-CLI-001"),
        (["--random-split", "val=0.5", "--group-by", "("], "MSA-CLI-001"),
    ],
)
def test_options_that_contradict_each_other(words: list[str], code: str, source: Annotated) -> None:
    assert error_codes(source.refuse(*words)) == [code]
