"""PASCAL-Person-Part and SBD: labels in MATLAB files."""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from msanet.data.manifest import load_manifest
from msanet.datasets import PERSON_PART
from msanet.errors import UserError
from sharding.readers import open_source
from sharding.readers.person_part import PERSON_PART as READER
from sharding.tree import FolderTree
from support.errors import error_codes
from support.packing import packed_labels, refuse

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]
SHAPE = (48, 64)


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def cell(values: list[dict[str, Any]]) -> np.ndarray:
    """A MATLAB struct array of 1 x n; without a value, 0 x 0 as MATLAB writes it."""
    if not values:
        return np.zeros((0, 0))
    array = np.zeros((1, len(values)), [(name, object) for name in values[0]])
    for i, value in enumerate(values):
        array[0, i] = tuple(value.values())
    return array


def thing(name: str, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    found = [{"part_name": part, "mask": mask} for part, mask in parts.items()]
    return {"class": name, "class_ind": 15.0, "mask": box(0, 0, 48, 64), "parts": cell(found)}


def write_parts(path: Path, things: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"anno": {"imname": path.stem, "objects": cell(things)}}, do_compression=True)
    return path


@pytest.fixture
def parts(fake: Any, tmp_path: Path) -> Path:
    """VOC 2010 with PASCAL-Part: two images with people in train, one in val, and images without."""
    root = tmp_path / "VOCdevkit" / "VOC2010"
    annotations = {
        "2008_a": [
            thing("dog", {"head": box(0, 0, 48, 64)}),
            thing("person", {"head": box(0, 0, 10, 10), "hair": box(0, 5, 10, 20), "torso": box(8, 0, 20, 20)}),
            thing("person", {"neck": box(18, 0, 22, 5), "luarm": box(30, 0, 32, 4), "rfoot": box(40, 60, 48, 64)}),
        ],
        "2008_b": [thing("person", {"lhand": box(1, 1, 3, 3), "ruleg": box(5, 5, 9, 9)})],
        "2008_c": [thing("person", {}), thing("bird", {"torso": box(0, 0, 9, 9)})],
        "2009_d": [thing("person", {"lebrow": box(0, 0, 1, 1)})],
        "2009_e": [thing("boat", {})],
    }
    for source_id, things in annotations.items():
        fake.image(root / "JPEGImages" / f"{source_id}.jpg")
        write_parts(root / "Annotations_Part" / f"{source_id}.mat", things)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("2008_b\n2008_c\n2008_a\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("2009_d  1\n2009_e -1\n")
    return root


def test_parts_become_six_classes(parts: Path, shard: Shard, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert shard("person_part", "--source", parts.parent, "--out", out) == 0
    labels = packed_labels(out, "train")
    assert list(labels) == ["2008_a", "2008_b"]  # not 2008_c, whose person has no parts
    expected = np.zeros(SHAPE, np.uint8)
    expected[0:10, 0:20] = 1
    expected[8:20, 0:20] = 2  # the torso comes later in the file and covers the head
    expected[18:22, 0:5] = 2
    expected[30:32, 0:4] = 3
    expected[40:48, 60:64] = 6
    assert np.array_equal(labels["2008_a"], expected)
    assert set(np.unique(labels["2008_b"])) == {0, 4, 5}
    assert list(packed_labels(out, "val")) == ["2009_d"]
    assert load_manifest(out).classes == (
        "background",
        "head",
        "torso",
        "upper arms",
        "lower arms",
        "upper legs",
        "lower legs",
    )


def test_parts_give_the_same_shards_with_more_workers(parts: Path, shard: Shard, tmp_path: Path) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    for workers, out in enumerate(outs, start=1):
        assert shard("person_part", "--source", parts, "--out", out, "--shard-bytes", "1", "--workers", workers) == 0
    names = sorted(path.name for path in outs[0].iterdir())
    assert len([name for name in names if name.endswith(".tar")]) == 3
    assert all((outs[0] / name).read_bytes() == (outs[1] / name).read_bytes() for name in names)


def test_lists_of_another_folder(parts: Path, shard: Shard, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "mine.txt").write_text("2009_d\n")
    words = ("--lists", tmp_path / "lists", "--splits", "mine", "--out", tmp_path / "out")
    assert shard("person_part", "--source", parts, *words) == 0
    assert list(packed_labels(tmp_path / "out", "mine")) == ["2009_d"]


def no_lists(root: Path) -> None:
    for path in (root / "ImageSets" / "Main").iterdir():
        path.unlink()


def parts_of_two_sizes(root: Path) -> None:
    parts = {"head": box(0, 0, 1, 1), "torso": np.ones((5, 5), np.uint8)}
    write_parts(root / "Annotations_Part" / "2008_a.mat", [thing("person", parts)])


def small_masks(root: Path) -> None:
    person = thing("person", {"head": np.ones((5, 7), np.uint8)})
    write_parts(root / "Annotations_Part" / "2008_a.mat", [{**person, "mask": np.ones((5, 7), np.uint8)}])


def cut_mat(root: Path) -> None:
    path = root / "Annotations_Part" / "2008_a.mat"
    path.write_bytes(path.read_bytes()[:-40])


PART_FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no lists": (no_lists, ("ImageSets/Main' has no lists", "VOC 2010", "--lists")),
    "no mat": (
        lambda root: (root / "Annotations_Part" / "2008_a.mat").unlink(),
        ("'2008_a', which has no Annotations_Part/2008_a.mat", "1 of 3"),
    ),
    "no image": (lambda root: (root / "JPEGImages" / "2008_a.jpg").unlink(), ("no JPEGImages/2008_a.jpg",)),
    "half a mat": (cut_mat, ("2008_a.mat' cannot be read", "MATLAB 5", "'anno'")),
    "text": (
        lambda root: (root / "Annotations_Part" / "2008_a.mat").write_text("hello"),
        ("2008_a.mat' cannot be read", "5 bytes"),
    ),
    "empty": (lambda root: (root / "Annotations_Part" / "2008_a.mat").write_text(""), ("2008_a.mat' cannot be read",)),
    "other variable": (
        lambda root: scipy.io.savemat(root / "Annotations_Part" / "2008_a.mat", {"x": 1}),
        ("2008_a.mat' cannot be read", "'anno'"),
    ),
    "numbers for objects": (
        lambda root: scipy.io.savemat(root / "Annotations_Part" / "2008_a.mat", {"anno": {"objects": np.ones((2, 2))}}),
        ("2008_a.mat' cannot be read",),
    ),
    "unknown part": (
        lambda root: write_parts(
            root / "Annotations_Part" / "2008_a.mat", [thing("person", {"wing": box(0, 0, 1, 1)})]
        ),
        ("part 'wing'", "expected one of head, leye"),
    ),
    "two sizes": (parts_of_two_sizes, ("2008_a.mat' cannot be read (masks of different sizes",)),
    "other size than the image": (small_masks, ("2008_a.mat' is 7x5 but its image", "64x48")),
}


@pytest.mark.parametrize("fault", PART_FAULTS)
def test_a_fault_in_person_part(fault: str, parts: Path, tmp_path: Path, capfd: Capture) -> None:
    PART_FAULTS[fault][0](parts)
    sentence = refuse(["person_part", "--source", parts], tmp_path / "out", capfd)
    assert all(words in sentence for words in PART_FAULTS[fault][1]), sentence


def test_scipy_is_asked_for(parts: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    sentence = refuse(["person_part", "--source", parts], tmp_path / "out", capfd)
    assert "pip install scipy" in sentence


def test_a_damaged_mat_of_any_kind_is_one_sentence(parts: Path, tmp_path: Path, capfd: Capture) -> None:
    """scipy fails in many ways; every one of 60 damaged files is refused or read, and none ends in a traceback."""
    random, path = np.random.default_rng(0), parts / "Annotations_Part" / "2008_a.mat"
    (parts / "ImageSets" / "Main" / "train.txt").write_text("2008_a\n")
    whole = path.read_bytes()
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for at in random.integers(0, 300, 4):
            data[at] = random.integers(256)
        path.write_bytes(bytes(data))
        tree = open_source(READER, [parts])
        try:
            found = READER.read(tree, Namespace(splits=["train"], lists=None))  # keeps it, to be named with all others
            assert found.decode is not None
            found.decode(path.read_bytes(), str(path))
        except UserError as error:
            refused += 1
            assert "2008_a.mat" in str(error) and "\n" not in str(error)
    assert refused > 20


def test_damaged_mats_are_named_together(parts: Path, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    names = sorted(path.stem for path in (parts / "Annotations_Part").glob("*.mat"))
    (parts / "ImageSets" / "Main" / "train.txt").write_text("\n".join(names))
    for name in names[:2]:
        (parts / "Annotations_Part" / f"{name}.mat").write_bytes(b"x" * 200)
    words = ["person_part", "--source", parts, "--splits", "train", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit, match="2"):
        shard(*words)
    said = capfd.readouterr().err
    assert error_codes(said) == ["MSA-PACK-028", "MSA-PACK-028", "MSA-PACK-201"]
    assert all(f"{name}.mat" in said for name in names[:2])


def test_real_person_parts(real_data: Path, shard: Shard, tmp_path: Path) -> None:
    source = real_data / "pascal_part"
    ids = sorted(path.stem for path in (source / "Annotations_Part").glob("*.mat"))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("\n".join(ids))
    out = tmp_path / "out"
    assert shard("person_part", "--source", source, "--lists", tmp_path / "lists", "--out", out) == 0
    labels = packed_labels(out, "train")
    assert list(labels) == ["2008_000652", "2008_000726"]  # the only two of nine with people
    people = np.asarray(Image.open(real_data / "VOCdevkit" / "VOC2012" / "SegmentationClassAug" / "2008_000652.png"))
    assert (people[labels["2008_000652"] > 0] == 15).mean() > 0.95  # SBD's person, drawn independently
    for source_id, label in labels.items():
        assert np.array_equal(label, naive_parts(source / "Annotations_Part" / f"{source_id}.mat", label.shape))


def naive_parts(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Part by part with plain words of their names."""
    label = np.zeros(shape, np.uint8)
    for found in np.atleast_1d(scipy.io.loadmat(path, simplify_cells=True)["anno"]["objects"]):
        for part in np.atleast_1d(found["parts"]):
            name = part["part_name"]
            number = 1
            for endings, value in (
                (("torso", "neck"), 2),
                (("uarm",), 3),
                (("larm", "hand"), 4),
                (("uleg",), 5),
                (("lleg", "foot"), 6),
            ):
                if name.endswith(endings):
                    number = value
            label[part["mask"] == 1] = number
    return label


def write_sbd(path: Path, ids: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"GTcls": {"Segmentation": ids, "CategoriesPresent": np.array([1])}}, do_compression=True)
    return ids


@pytest.fixture
def sbd(fake: Any, tmp_path: Path) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """(VOC, SBD, {id: SBD's label}): SBD has images of VOC's train and val, and one of its own."""
    voc, root = fake.voc(), tmp_path / "benchmark_RELEASE"
    labels = {
        source_id: write_sbd(
            root / "dataset" / "cls" / f"{source_id}.mat", fake.random.integers(0, 21, SHAPE, dtype=np.uint8)
        )
        for source_id in ("2007_b", "2007_c", "2008_d")
    }
    (root / "dataset" / "train.txt").write_text("2007_b\n2008_d\n")
    (root / "dataset" / "val.txt").write_text("2007_c\n")
    return voc, root, labels


@pytest.mark.parametrize("below", ["", "dataset", ".."])
def test_sbd_adds_to_vocs_train(
    below: str, sbd: tuple[Path, Path, dict[str, np.ndarray]], shard: Shard, tmp_path: Path
) -> None:
    voc, root, labels = sbd
    out = tmp_path / "out"
    assert shard("voc", "--source", voc, "--sbd", root / below, "--out", out, "--workers", 2) == 0
    found = packed_labels(out, "train_aug")
    assert list(found) == ["2007_a", "2007_b", "2008_d"]  # not 2007_c, which is in VOC's val
    for source_id in ("2007_a", "2007_b"):  # VOC's own, where there is one
        path = voc / "VOC2012" / "SegmentationClass" / f"{source_id}.png"
        assert np.array_equal(found[source_id], np.asarray(Image.open(path)))
    assert np.array_equal(found["2008_d"], labels["2008_d"])
    assert list(packed_labels(out, "val")) == ["2007_c"]


def test_a_change_in_sbd_is_another_dataset(
    sbd: tuple[Path, Path, dict[str, np.ndarray]], shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    voc, root, _ = sbd
    words = ("voc", "--source", voc, "--sbd", root, "--out", tmp_path / "out")
    assert shard(*words) == 0 and shard(*words) == 0
    assert "nothing to do" in capfd.readouterr().out
    write_sbd(root / "dataset" / "cls" / "2008_d.mat", np.zeros(SHAPE, np.uint8))
    with pytest.raises(SystemExit):
        shard(*words)
    assert "is not the dataset of this command" in capfd.readouterr().err


SBD_FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no SBD": (lambda root: (root / "dataset" / "val.txt").unlink(), ("is not SBD", "dataset/cls/*.mat")),
    "no mat": (
        lambda root: (root / "dataset" / "cls" / "2008_d.mat").unlink(),
        ("2008_d.jpg' has no label map", "1 of 3"),
    ),
    "no image": (
        lambda root: (root / "dataset" / "train.txt").write_text("2011_x\n"),
        ("split 'train_aug' names '2011_x'", "JPEGImages/2011_x.jpg"),
    ),
    "no map": (
        lambda root: scipy.io.savemat(root / "dataset" / "cls" / "2008_d.mat", {"GTcls": {"Boundaries": 1}}),
        ("2008_d.mat' cannot be read", "'GTcls'"),
    ),
    "unknown value": (
        lambda root: write_sbd(root / "dataset" / "cls" / "2008_d.mat", np.full(SHAPE, 33, np.uint8)),
        ("2008_d.mat'", "value(s) [33]"),
    ),
    "other size": (
        lambda root: write_sbd(root / "dataset" / "cls" / "2008_d.mat", np.zeros((9, 9), np.uint8)),
        ("2008_d.mat' is 9x9 but its image",),
    ),
}


@pytest.mark.parametrize("fault", SBD_FAULTS)
def test_a_fault_in_sbd(
    fault: str, sbd: tuple[Path, Path, dict[str, np.ndarray]], tmp_path: Path, capfd: Capture
) -> None:
    voc, root, _ = sbd
    SBD_FAULTS[fault][0](root)
    sentence = refuse(["voc", "--source", voc, "--sbd", root], tmp_path / "out", capfd)
    assert all(words in sentence for words in SBD_FAULTS[fault][1]), sentence


def test_the_voc_lists_of_the_papers_leave_9118_images_to_sbd(real_data: Path) -> None:
    """train_aug, 10,582 images: its published list holds VOC's train and no image of VOC's val."""
    folder = FolderTree(real_data / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation")
    train, val, augmented = (set(folder.read(f"{name}.txt").decode().split()) for name in ("train", "val", "train_aug"))
    assert len(augmented) == 10582 and train <= augmented and not val & augmented
    assert len(augmented - train) == 9118


def test_person_part_has_the_papers_classes() -> None:
    assert PERSON_PART.num_classes == 7 and PERSON_PART.palette[1] == (128, 0, 0)
