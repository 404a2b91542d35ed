"""The procedural street scenes: layout, labels, determinism, refusals, and that color alone does not solve them."""

import argparse
import errno
import os
import shutil
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from conftest import REPOSITORY
from msanet.datasets.cityscapes import LABELS
from msanet.errors import UserError
from sharding.street.scene import Scene, render
from sharding.synthetic import _plan, add_arguments, generate, run
from support.errors import error_codes

SIZE = (96, 192)
BY_ID = {label.id: label for label in LABELS}
IDS = {label.name: label.id for label in LABELS}


@lru_cache(maxsize=64)
def _scene(index: int) -> Scene:
    return render(3, index, SIZE)


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


def test_rare_things_are_more_frequent_where_asked_for() -> None:
    ids = [label.id for label in LABELS if label.name in ("truck", "bus", "motorcycle", "bicycle", "rider")]
    usual, more = (
        sum(int(np.isin(render(3, index, SIZE, rare).label_HW, ids).sum()) for index in range(6)) for rare in (1.0, 3.0)
    )
    assert more > 1.3 * usual > 0


def test_render_is_a_pure_function_of_its_arguments() -> None:
    first, again, other = _scene(2), render(3, 2, SIZE), render(4, 2, SIZE)
    assert np.array_equal(first.image_HWC, again.image_HWC)
    assert np.array_equal(first.label_HW, again.label_HW)
    assert np.array_equal(first.instance_HW, again.instance_HW)
    assert not np.array_equal(first.label_HW, other.label_HW)
    assert not np.array_equal(first.label_HW, _scene(3).label_HW)


def test_the_bytes_depend_on_the_seed_and_not_on_the_workers(tmp_path: Path) -> None:
    generate(tmp_path / "one", 2, (64, 64), seed=1, workers=1)
    generate(tmp_path / "two", 2, (64, 64), seed=1, workers=2)
    generate(tmp_path / "other", 2, (64, 64), seed=2, workers=1)
    one, two, other = (_files(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one if "leftImg8bit" in name)


def test_arrays_have_the_promised_types() -> None:
    scene = _scene(0)
    assert scene.image_HWC.shape == (*SIZE, 3) and scene.image_HWC.dtype == np.uint8
    assert scene.label_HW.shape == SIZE and scene.label_HW.dtype == np.uint8
    assert scene.instance_HW.shape == SIZE and scene.instance_HW.dtype == np.uint16


def test_scenes_hold_known_labels_and_most_classes() -> None:
    found = [set(np.unique(_scene(index).label_HW).tolist()) for index in range(12)]
    assert set().union(*found) <= BY_ID.keys()
    classes = {i for i in set().union(*found) if BY_ID[i].train_id < 19}
    assert len(classes) >= 14
    for index, ids in enumerate(found):
        assert {IDS["road"], IDS["sky"], IDS["building"]} <= ids, f"scene {index}"
        assert IDS["ego vehicle"] in ids, f"scene {index}"


def test_instances_agree_with_labels() -> None:
    things = [label.id for label in LABELS if label.has_instances]
    for index in range(12):
        scene = _scene(index)
        label, instance = scene.label_HW.astype(int), scene.instance_HW.astype(int)
        assert np.array_equal(np.where(instance >= 1000, instance // 1000, instance), label)
        assert np.array_equal(instance >= 1000, np.isin(label, things))


def test_cars_are_told_apart() -> None:
    counts = [len(np.unique(s.instance_HW[s.label_HW == IDS["car"]])) for s in map(_scene, range(12))]
    assert max(counts) >= 4


def _blank(seed: int, index: int, size: tuple[int, int], rare: float = 1.0) -> Scene:
    """A black scene of the promised types."""
    return Scene(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), np.zeros(size, np.uint16))


@pytest.mark.parametrize(("images", "train", "val"), [(2, 1, 1), (5, 4, 1)])
def test_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, train: int, val: int) -> None:
    monkeypatch.setattr("sharding.synthetic.render", _blank)  # only the files count here, and drawing takes long
    out = tmp_path / "deep" / "data"
    generate(out, images, (64, 80))
    assert sorted(path.name for path in out.iterdir()) == ["gtFine", "leftImg8bit"]
    assert not out.with_name("data.partial").exists()
    cities: dict[str, set[str]] = {}
    for split, count in (("train", train), ("val", val)):
        pictures = sorted((out / "leftImg8bit" / split).glob("*/*.png"))
        cities[split] = {path.parent.name for path in pictures}
        assert len(pictures) == count
        assert len(list((out / "gtFine" / split).glob("*/*.png"))) == 2 * count
        for path in pictures:
            city = path.parent.name
            stem = path.name.removesuffix("_leftImg8bit.png")
            name, sequence, frame = stem.split("_")
            assert (name, frame) == (city, "000019") and len(sequence) == 6
            labels = out / "gtFine" / split / city
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            ids = cv2.imread(str(labels / f"{stem}_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED)
            instances = cv2.imread(str(labels / f"{stem}_gtFine_instanceIds.png"), cv2.IMREAD_UNCHANGED)
            assert picture is not None and picture.shape == (64, 80, 3) and picture.dtype == np.uint8
            assert ids is not None and ids.shape == (64, 80) and ids.dtype == np.uint8
            assert instances is not None and instances.shape == (64, 80) and instances.dtype == np.uint16
    assert not cities["train"] & cities["val"]


def test_files_hold_the_rendered_scene_in_rgb(tmp_path: Path) -> None:
    generate(tmp_path / "data", 2, (64, 80), seed=4)
    scene = render(4, 1, (64, 80))
    stem = "dunmore/dunmore_000000_000019"
    picture = cv2.imread(str(tmp_path / f"data/leftImg8bit/val/{stem}_leftImg8bit.png"), cv2.IMREAD_COLOR)
    assert picture is not None
    assert np.array_equal(picture[..., ::-1], scene.image_HWC)
    for kind, expected in (("labelIds", scene.label_HW), ("instanceIds", scene.instance_HW)):
        ids = cv2.imread(str(tmp_path / f"data/gtFine/val/{stem}_gtFine_{kind}.png"), cv2.IMREAD_UNCHANGED)
        assert ids is not None and ids.dtype == expected.dtype
        assert np.array_equal(ids, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--images", "1"], "images is 1"),
        (["--size", "63x64"], "size is 63x64"),
        (["--size", "8193x64"], "size is 8193x64"),
        (["--size", "512"], "WIDTHxHEIGHT"),
        (["--size", "-512x256"], "WIDTHxHEIGHT"),
        (["--size", "axb"], "WIDTHxHEIGHT"),
        (["--seed", "-1"], "seed is -1"),
        (["--workers", "0"], "workers is 0"),
        (["--rare", "0"], "factor is 0"),
    ],
)
def test_bad_values_are_refused_and_leave_nothing(tmp_path: Path, options: list[str], words: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    usual = ["--out", str(tmp_path / "data"), "--images", "2", "--size", "80x64"]
    # The joined form is the one in which argparse takes a value that begins with a minus.
    args = parser.parse_args([*usual, "=".join(options)])
    with pytest.raises(UserError, match=words):
        run(args)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="folder with files"):
        generate(tmp_path / "data", 2, (64, 64))
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mine.txt"]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seed: int, index: int, size: tuple[int, int], rare: float) -> Scene:
        if index == 1:
            raise MemoryError
        return _blank(seed, index, size)

    monkeypatch.setattr("sharding.synthetic.render", fail)
    with pytest.raises(MemoryError):
        generate(tmp_path / "data", 2, (64, 64))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="leftImg8bit.png"):  # user_errors makes a sentence of it
        generate(tmp_path / "data", 2, (64, 64))
    assert list(tmp_path.iterdir()) == []


def test_no_worker_outlives_the_command_and_a_killed_one_is_said(tmp_path: Path) -> None:
    words = ["--out", tmp_path / "data", "--images", 5000, "--size", "512x256", "--workers", 2]
    command = [sys.executable, "-m", "sharding", "synthetic", *map(str, words)]
    for victim_is_worker in (False, True):
        with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, process_group=0) as process:
            while not list(tmp_path.glob("data.partial/*/*/*/*.png")):
                assert process.poll() is None
                time.sleep(0.05)
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            assert len(workers) == 2
            (workers[0] if victim_is_worker else process).kill()
            said = process.communicate()[1]
        if victim_is_worker:
            assert process.returncode == 2 and error_codes(said) == ["MSA-PACK-014"]
            assert "Traceback" not in said and list(tmp_path.iterdir()) == []
        assert not psutil.wait_procs(children, timeout=30)[1], "none is left"
        shutil.rmtree(tmp_path / "data.partial", ignore_errors=True)


def test_run_writes_width_by_height(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # An empty folder is accepted.
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args(["--out", str(tmp_path / "data"), "--images", "2", "--size", "96x64"])) == 0
    picture = cv2.imread(str(next((tmp_path / "data/leftImg8bit").rglob("*.png"))))
    assert picture is not None and picture.shape == (64, 96, 3)


def test_the_last_fifth_is_val(tmp_path: Path) -> None:
    jobs = _plan(tmp_path, 23, SIZE, 0, 1.0)
    assert [job.split for job in jobs] == ["train"] * 19 + ["val"] * 4
    assert [job.index for job in jobs] == list(range(23))
    assert len({(job.city, job.sequence) for job in jobs}) == 23


def _pixels(scene: Scene) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The colors (M, 3) and train ids (M,) of the pixels that have a class."""
    train_ids = np.array([BY_ID[i].train_id if i in BY_ID else 255 for i in range(256)])[scene.label_HW]
    known = train_ids < 19
    return scene.image_HWC[known].astype(float), train_ids[known]


def test_color_alone_does_not_solve_the_scenes() -> None:
    colors, classes = (np.concatenate(part) for part in zip(*map(_pixels, map(_scene, range(8))), strict=True))
    present = np.unique(classes)
    means = np.stack([colors[classes == number].mean(0) for number in present])
    right = total = 0
    for index in range(8, 12):
        colors, classes = _pixels(_scene(index))
        nearest = np.argmin(((colors[:, None] - means) ** 2).sum(-1), 1)
        right += int((present[nearest] == classes).sum())
        total += len(classes)
    assert right / total < 0.6
