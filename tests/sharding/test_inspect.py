"""`msanet inspect`: the tables say what the manifest says, the sheet shows the samples it names."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from msanet.data.manifest import load_manifest
from msanet.datasets import CAMVID, IGNORE_INDEX
from sharding import inspection
from sharding.__main__ import main
from sharding.inspection import LabeledSample, cell, labeled_samples, quotas
from sharding.sheet import CELL, draw_sheet

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def shards(fake: Any, tmp_path: Path) -> Path:
    words = ["--source", fake.camvid(train=9, val=3), "--out", tmp_path / "shards", "--shard-bytes", "25KB"]
    assert main(["camvid", *map(str, words), "--codec", "original", "--workers", "1"]) == 0
    return tmp_path / "shards"


@pytest.fixture
def refused(capfd: Capture) -> Refused:
    def run(*words: object) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["inspect", *map(str, words)])
        error = capfd.readouterr().err
        assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
        return error

    return run


def inspected(capfd: Capture, *words: object) -> list[list[str]]:
    """The words of each line that the command prints."""
    capfd.readouterr()
    assert main(["inspect", *map(str, words)]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return [line.split() for line in out.splitlines()]


def test_the_tables(shards: Path, capfd: Capture) -> None:
    lines = inspected(capfd, shards)
    splits = load_manifest(shards).splits
    assert lines[0] == ["camvid:", "11", "classes,", "codec", "original"]
    assert " ".join(lines[1]) == "image size: 64x48 (in 12 of 12 samples)"
    for name, split in splits.items():
        size = sum((shards / shard.file).stat().st_size for shard in split.shards) / 1e6
        mean = size / len(split.shards)
        labelled = sum(split.histogram) / (split.samples * 48 * 64)
        row = [name, str(split.samples), str(len(split.shards)), f"{size:.1f}", f"{mean:.1f}", f"{labelled:.2%}"]
        assert row in lines
    road = [f"{split.histogram[3] / sum(split.histogram):.2%}" for split in splits.values()]
    assert ["class", "train", "val"] in lines and ["road", *road] in lines


def test_one_split(shards: Path, capfd: Capture) -> None:
    lines = inspected(capfd, shards, "--split", "val", "--samples", 2)
    assert ["class", "val"] in lines and not [line for line in lines if line[:1] == ["train"]]
    assert " ".join(lines[1]) == "image size: 64x48 (in 2 of 3 samples)"


def test_rare_and_absent_classes(shards: Path, capfd: Capture) -> None:
    manifest = json.loads((shards / "dataset.json").read_text())
    manifest["splits"]["val"]["histogram"] = [0, 1, 10**6, *[0] * 8]
    (shards / "dataset.json").write_text(json.dumps(manifest))
    lines = inspected(capfd, shards, "--split", "val")
    assert ["sky", "-"] in lines and ["building", "<0.01%"] in lines and ["pole", "100.00%"] in lines


def test_sizes_that_differ(fake: Any, tmp_path: Path, capfd: Capture) -> None:
    root = fake.camvid(train=2)
    fake.image(root / "train" / "wide.png", (30, 90, 3))
    cv2.imwrite(str(root / "trainannot" / "wide.png"), np.zeros((30, 90), np.uint8))
    words = ["camvid", "--source", str(root), "--out", str(tmp_path / "shards"), "--codec", "original"]
    assert main([*words, "--workers", "1"]) == 0
    lines = inspected(capfd, tmp_path / "shards")
    assert " ".join(lines[1]) == "image size: 64x30 to 90x48 (in 3 of 3 samples)"


def test_samples_are_spread_evenly_over_the_splits(shards: Path) -> None:
    splits = load_manifest(shards).splits
    found = [(sample.split, int(sample.key[-5:])) for sample in labeled_samples(shards, splits, 5)]
    assert found == [("train", 1), ("train", 4), ("train", 7), ("val", 0), ("val", 2)]
    everything = [("train", number) for number in range(9)] + [("val", number) for number in range(3)]
    assert [(sample.split, int(sample.key[-5:])) for sample in labeled_samples(shards, splits, 100)] == everything


def test_what_a_split_cannot_give_others_give() -> None:
    assert quotas([100, 2, 100], 12) == [5, 2, 5]
    assert quotas([3, 0, 1], 12) == [3, 0, 1]
    assert quotas([], 12) == []


def test_a_cell_shows_class_colors_and_leaves_ignored_pixels_alone() -> None:
    image_HWC = np.full((40, 80, 3), 200, np.uint8)
    label_HW = np.full((40, 80), IGNORE_INDEX, np.uint8)
    label_HW[:, 40:] = 3
    shown = cell(LabeledSample("train", "a", image_HWC, label_HW), CAMVID.palette)
    assert shown.shape == (CELL // 2, CELL, 3)
    assert (shown[:, : CELL // 2 - 2] == 200).all()
    road = (200 + np.array(CAMVID.palette[3])) / 2
    assert np.abs(shown[:, CELL // 2 + 2 :] - road).max() <= 1


def test_cells_fit_their_square() -> None:
    for height, width in ((3000, 1000), (1000, 3000), (1, 5000), (7, 7)):
        blank = LabeledSample("train", "a", np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8))
        shown = cell(blank, CAMVID.palette)
        assert max(shown.shape[:2]) == CELL and min(shown.shape[:2]) >= 1


def test_the_sheet(shards: Path, tmp_path: Path, capfd: Capture) -> None:
    path = tmp_path / "new" / "sheet.png"
    lines = inspected(capfd, shards, "--sheet", path, "--samples", 4)
    assert lines[-1] == ["wrote", str(path)] and os.listdir(path.parent) == ["sheet.png"]
    pixels = np.asarray(Image.open(path))
    manifest = load_manifest(shards)
    for sample, place in zip(
        labeled_samples(shards, manifest.splits, 4), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True
    ):
        assert contains(pixels, cell(sample, manifest.palette), place), sample.key
    for color in manifest.palette:
        assert (pixels[-180:] == color).all(axis=-1).sum() > 300, f"no swatch of {color} in the legend"


def contains(sheet: np.ndarray, picture: np.ndarray, place: tuple[int, int]) -> bool:
    """Whether the picture is in this quarter of the sheet."""
    height, width = picture.shape[:2]
    columns = np.flatnonzero((sheet[:, : -width or None] == picture[0, 0]).all(axis=-1).any(axis=0))
    rows = np.flatnonzero((sheet == picture[0, 0]).all(axis=-1).any(axis=1))
    found = [
        (top, left)
        for top in rows
        for left in columns
        if np.array_equal(sheet[top : top + height, left : left + width], picture)
    ]
    return [(top > sheet.shape[0] // 3, left > sheet.shape[1] // 3) for top, left in found] == [place]


def test_a_sheet_of_any_names() -> None:
    square = np.zeros((CELL, CELL, 3), np.uint8)
    for count in (1, 2, 5):
        legend = [("x" * 300, (1, 2, 3)), ("\u0444\u4e2d", (4, 5, 6)), ("", (7, 8, 9))]
        sheet = draw_sheet("t" * 900, [square] * count, ["k" * 300, "", "a", "b", "c"][:count], legend)
        margin = np.asarray(sheet)[:, -30:]
        assert (margin == margin[0, 0]).all(), "nothing reaches into the margin"
        assert (np.asarray(sheet) == 0).all(axis=-1).sum() >= count * CELL * CELL


def test_a_failed_write_leaves_nothing(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", str(shards), "--sheet", str(tmp_path / "sheet.png")])
    assert sorted(os.listdir(tmp_path)) == ["camvid", "shards"]


def test_damaged_shards(shards: Path, refused: Refused, tmp_path: Path) -> None:
    tar = shards / "train-000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    sentence = refused(shards)
    assert "train-000000.tar' is damaged (0016E5_00000: " in sentence
    assert sentence.endswith(f"msanet verify {shards} [MSA-PACK-047]\n")
    tar.write_bytes(whole)
    index = json.loads((shards / "train-000000.idx.json").read_text())
    index["samples"].pop()
    (shards / "train-000000.idx.json").write_text(json.dumps(index))
    assert "its index has 1 samples" in refused(shards)
    tar.unlink()
    assert "train-000000.tar': no such file" in refused(shards)


def test_a_label_with_a_value_that_is_no_class(
    shards: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for wrong in (np.full((48, 64), 77, np.uint8), np.zeros((48, 64), np.int64)):
        monkeypatch.setattr(inspection, "decode_label", lambda *_, wrong=wrong: wrong)
        sentence = refused(shards, "--sheet", tmp_path / "sheet.png")
        assert "sample '0016E5_00000': label " in sentence and not (tmp_path / "sheet.png").exists()


def test_words_that_cannot_be(shards: Path, refused: Refused, tmp_path: Path) -> None:
    assert "samples is 0" in refused(shards, "--samples", 0)
    assert "expected 1 to 400" in refused(shards, "--samples", 401)
    assert "did you mean 'train'?" in refused(shards, "--split", "trian")
    assert "PNG" in refused(shards, "--sheet", tmp_path / "sheet.jpg")
    (tmp_path / "folder.png").mkdir()
    assert "PNG" in refused(shards, "--sheet", tmp_path / "folder.png")
    shutil.rmtree(shards)
    assert "holds no dataset.json" in refused(shards)
