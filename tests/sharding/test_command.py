"""Bad input of every kind: exit code 2, one sentence that names the fault, and nothing left on the disk."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from msanet.errors import UserError
from sharding.__main__ import main
from sharding.plan import parse_bytes
from support.errors import error_codes
from support.packing import check_refused

Refused = Callable[..., str]
Shard = Callable[..., int]
Start = Callable[..., "subprocess.Popen[str]"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command, check that it is refused as promised, and return the sentence."""

    def run(*words: object, out: Path = tmp_path / "out") -> str:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--out", str(out), "--workers", "1"])
        return check_refused(ended.value.code, capfd.readouterr().err, out)

    return run


def first(root: Path, split: str = "trainannot") -> Path:
    return root / split / "0016E5_00001.png"


def no_label(root: Path) -> None:
    first(root).unlink()


def other_size(root: Path) -> None:
    cv2.imwrite(str(first(root)), np.zeros((48, 60), np.uint8))


def unknown_value(root: Path) -> None:
    cv2.imwrite(str(first(root)), np.full((48, 64), 77, np.uint8))


def wide_label(root: Path) -> None:
    cv2.imwrite(str(first(root)), np.full((48, 64), 3000, np.uint16))


def rgb_label(root: Path) -> None:
    cv2.imwrite(str(first(root)), np.full((48, 64, 3), (3, 2, 1), np.uint8))


def cut(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size + size if size < 0 else size)


FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "image without label": (no_label, ("train/0016E5_00001.png", "no label map", "1 of 3 images")),
    "sizes differ": (other_size, ("trainannot/0016E5_00001.png", "60x48", "64x48")),
    "unknown label value": (unknown_value, ("trainannot/0016E5_00001.png", "[77]", "0 to 255")),
    "16-bit label": (wide_label, ("trainannot/0016E5_00001.png", "uint16", "3000")),
    "RGB label": (rgb_label, ("trainannot/0016E5_00001.png", "[1, 2, 3]", "3072 pixels")),
    "half an image": (lambda root: cut(first(root, "train"), -2000), ("train/0016E5_00001.png", "cannot be decoded")),
    "image without its end": (
        lambda root: cut(first(root, "train"), -4),
        ("train/0016E5_00001.png", "cannot be decoded"),
    ),
    "half a label": (lambda root: cut(first(root), -800), ("trainannot/0016E5_00001.png", "is damaged")),
    "empty image": (lambda root: cut(first(root, "train"), 0), ("train/0016E5_00001.png", "it is empty")),
    "text as image": (
        lambda root: first(root, "train").write_text("hello"),
        ("train/0016E5_00001.png", "cannot be read as an image"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_file(fault: str, fake: Any, refused: Refused, tmp_path: Path) -> None:
    root = fake.camvid(train=3)
    FAULTS[fault][0](root)
    sentence = refused("camvid", "--source", root)
    assert all(part in sentence for part in FAULTS[fault][1]), sentence


def test_a_fault_found_by_a_worker_process_gives_the_same_sentence(
    fake: Any, refused: Refused, start: Start, tmp_path: Path
) -> None:
    root, out = fake.camvid(train=6, val=4), tmp_path / "out"
    unknown_value(root)
    expected = refused("camvid", "--source", root)
    process = start("camvid", "--source", root, "--out", out, "--shard-bytes", "25KB", "--workers", 2)
    _, stderr = process.communicate(timeout=60)
    assert check_refused(process.returncode, stderr, out).startswith(expected.partition(", then run")[0])


def test_a_fault_keeps_what_a_stopped_run_left(fake: Any, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    root, out, partial = fake.camvid(train=6), tmp_path / "out", tmp_path / "out.partial"
    words = ("camvid", "--source", root, "--out", out, "--shard-bytes", "25KB")
    assert shard(*words) == 0
    out.rename(partial)
    sound = first(root).read_bytes()
    unknown_value(root)
    with pytest.raises(SystemExit, match="2"):
        shard(*words)
    assert error_codes(capfd.readouterr().err) == ["MSA-DATA-023"]
    assert len(list(partial.glob("*.idx.json"))) == 2
    first(root).write_bytes(sound)
    assert shard(*words) == 0
    assert "2 of its shards were finished before" in capfd.readouterr().out


def test_wrong_folders(fake: Any, refused: Refused, tmp_path: Path) -> None:
    cityscapes, camvid = fake.cityscapes(), fake.camvid()
    sentence = refused("camvid", "--source", cityscapes)
    assert "trainannot/*.png" in sentence and f"msanet pack cityscapes --source {cityscapes}" in sentence
    assert "this looks like camvid" in refused("voc", "--source", camvid)
    (tmp_path / "nothing").mkdir()
    sentence = refused("voc", "--source", tmp_path / "nothing")
    assert "JPEGImages" in sentence and "looks like" not in sentence
    assert "does not exist" in refused("voc", "--source", tmp_path / "absent")
    assert "not a zip file" in refused("voc", "--source", camvid / "train" / "0016E5_00000.png")
    shutil.copytree(camvid, tmp_path / "two" / "a")
    shutil.copytree(camvid, tmp_path / "two" / "b")
    assert "several camvid datasets: a, b" in refused("camvid", "--source", tmp_path / "two")


def test_splits(fake: Any, refused: Refused, tmp_path: Path) -> None:
    root = fake.camvid()
    assert "did you mean 'train'?" in refused("camvid", "--source", root, "--splits", "trian")
    assert "known are: train, val" in refused("camvid", "--source", root, "--splits", "xyz")
    (root / "test").mkdir()
    (root / "testannot").mkdir()
    assert "split 'test' has no images" in refused("camvid", "--source", root)


def test_lists(fake: Any, refused: Refused, tmp_path: Path) -> None:
    root = fake.voc()
    names = root / "VOC2012" / "ImageSets" / "Segmentation"
    (names / "gone.txt").write_text("2007_a\n1999_x\n")
    sentence = refused("voc", "--source", root, "--splits", "gone")
    assert "gone.txt' names '1999_x'" in sentence and "1 of 2" in sentence
    (names / "empty.txt").write_text("\n")
    assert "split 'empty' has no images" in refused("voc", "--source", root, "--splits", "empty")
    (names / "val.txt").write_text("2008_d\n")  # an official list never takes the other label folder
    assert "has no label map (1 of 1" in refused("voc", "--source", root, "--splits", "val")


def test_damaged_zips(fake: Any, refused: Refused, tmp_path: Path) -> None:
    archive = fake.zip(fake.camvid(), tmp_path / "camvid.zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert "camvid.zip' cannot be read" in refused("camvid", "--source", archive)
    at = whole.index(b"IDAT") + 1000  # inside the first image, which zipfile's crc32 covers
    archive.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert "camvid.zip' cannot be read" in refused("camvid", "--source", archive)


def test_places_that_cannot_be_written(
    fake: Any, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    root = fake.camvid(train=1)
    (tmp_path / "file").write_text("x")
    refused("camvid", "--source", root, out=tmp_path / "file" / "below" / "out")
    with pytest.raises(SystemExit, match="2"):
        main(["camvid", "--source", str(root), "--out", str(tmp_path / "file")])
    assert "is a file" in capfd.readouterr().err

    def forbidden(path: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:  # root may write everywhere, so a real folder would prove nothing there
        patch.setattr(os, "mkdir", forbidden)
        assert "permission denied" in refused("camvid", "--source", root)


def test_words_that_the_command_does_not_know(fake: Any, refused: Refused) -> None:
    root = fake.camvid(train=1)
    assert "did you mean 'camvid'?" in refused("camvd", "--source", root)
    assert "did you mean 'original'?" in refused("camvid", "--source", root, "--codec", "orignal")
    assert "384MB" in refused("camvid", "--source", root, "--shard-bytes", "big")
    assert "--labels" in refused("cityscapes", "--source", root, "--labels", "ides")
    assert "--source" in refused("camvid")
    assert "--splits" in refused("camvid", "--source", root, "--splitz", "train")


def test_no_dataset_is_named(capfd: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capfd.readouterr().err.startswith("error: ")


def test_the_synthetic_command_speaks_the_same_way(refused: Refused) -> None:
    assert "expected" in refused("synthetic", "--images", "4", "--size", "big")


@pytest.mark.parametrize(
    ("text", "size"),
    [("384MB", 384 * 10**6), ("1GB", 10**9), ("1.5 GiB", 3 * 2**29), ("64mb", 64 * 10**6), ("512", 512)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["0", "-1", "MB", "1XB", "", "0.1"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="expected a size"):
        parse_bytes(text)


def test_a_name_that_no_file_system_takes(fake: Any, tmp_path: Path, capfd: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["camvid", "--source", str(fake.camvid()), "--out", str(tmp_path / ("x" * 250))])  # and `.partial`
    assert "file name too long; choose a shorter name" in capfd.readouterr().err


def test_names_that_a_terminal_cannot_show_are_escaped(fake: Any, start: Start, tmp_path: Path) -> None:
    process = start("camvid", "--source", fake.camvid(), "--out", tmp_path / "道路", PYTHONIOENCODING="latin-1")
    shown, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert r"\u9053\u8def is complete" in shown
