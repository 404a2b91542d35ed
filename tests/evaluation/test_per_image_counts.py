"""Counts of every image: nothing lost in keeping them, and a file that is content, ours or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msanet.errors import UserError
from msanet.evaluation.metrics import scores
from msanet.evaluation.per_image_counts import (
    PerImageCounts,
    collect_counts,
    image_counts,
    merge_classes,
    read_per_image_counts,
    write_per_image_counts,
)
from msanet.run_layout import RunLayout
from support.errors import raises_user_error

CLASSES = ("road", "sidewalk", "car", "truck", "bus")


def random_matrices(num_images: int = 9, num_classes: int = 5, seed: int = 0) -> np.ndarray:
    """(N, K, K + 1), mostly zeros; the second image is empty."""
    rng = np.random.default_rng(seed)
    shape = (num_images, num_classes, num_classes + 1)
    matrices = rng.integers(1, 10**9, shape) * (rng.random(shape) < 0.3)
    matrices[1] = 0
    return matrices


def make(matrices: np.ndarray, classes: tuple[str, ...] = CLASSES) -> PerImageCounts:
    images = [image_counts(i, f"image_{i}", matrix) for i, matrix in enumerate(matrices)]
    return collect_counts("street", "0" * 64, "val", classes, reversed(images), np.array([[0, 26001, 9, 5, 7]] * 2))


def test_matrices_come_back() -> None:
    matrices = random_matrices()
    per_image = make(matrices)
    assert len(per_image) == 9 and per_image.keys == tuple(f"image_{i}" for i in range(9))
    assert all(np.array_equal(per_image.matrix(i), matrices[i]) for i in range(9))
    assert per_image.total().dtype == np.int64 and np.array_equal(per_image.total(), matrices.sum(axis=0))
    weights = np.array([0, 3, 1, 0, 0, 2, 1, 1, 0])
    assert np.array_equal(per_image.total(weights), np.einsum("n,nij->ij", weights, matrices))


def test_a_square_matrix_is_one_without_void() -> None:
    square = random_matrices()[:, :, :5]
    assert np.array_equal(make(square).total(), np.pad(square.sum(axis=0), ((0, 0), (0, 1))))


def test_counts_by_class() -> None:
    matrices = random_matrices()
    counts = make(matrices).class_counts()
    assert np.array_equal(counts.right, np.diagonal(matrices, axis1=1, axis2=2))
    assert np.array_equal(counts.support, matrices.sum(axis=2))
    assert np.array_equal(counts.predicted, matrices.sum(axis=1)[:, :5])


def test_merged_classes_by_hand() -> None:
    """Rows and columns added by hand; sidewalk keeps its place, the group stands where car stood."""
    matrices = random_matrices()
    merged = merge_classes(make(matrices), {"vehicle": ["bus", "car", "truck"]})
    rows = np.stack([matrices[:, 0], matrices[:, 1], matrices[:, 2:5].sum(axis=1)], axis=1)
    expected = np.stack([rows[..., 0], rows[..., 1], rows[..., 2:5].sum(axis=2), rows[..., 5]], axis=2)
    assert merged.classes == ("road", "sidewalk", "vehicle") and merged.instances is None
    assert all(np.array_equal(merged.matrix(i), expected[i]) for i in range(9))


def test_categories_of_cityscapes_are_a_merge() -> None:
    from msanet.datasets import CITYSCAPES
    from msanet.datasets.cityscapes import CATEGORIES
    from msanet.evaluation.protocols import compute_scores

    per_image = make(random_matrices(20, 19), CITYSCAPES.classes)
    official = compute_scores(per_image.total(), CITYSCAPES.classes, "official-cityscapes").categories
    groups = {category: [CITYSCAPES.classes[i] for i in members] for category, members in CATEGORIES.items()}
    merged = merge_classes(per_image, groups)
    assert len(merged.classes) == 7 and official
    values = dict(zip(merged.classes, scores(merged.total(), merged.classes).iou_K, strict=True))
    assert values == pytest.approx(official.values)


@pytest.mark.parametrize(
    ("groups", "code", "value"),
    [
        ({"vehicle": ["car", "trukc"]}, "MSA-EVAL-005", "'truck'"),
        ({"a": ["car"], "b": ["bus", "car"]}, "MSA-EVAL-006", "'b'"),
        ({"a": ["car", "car"]}, "MSA-EVAL-006", "'car'"),
        ({"road": ["car", "bus"]}, "MSA-EVAL-006", "'road'"),
    ],
)
def test_bad_groups_are_refused(groups: dict[str, list[str]], code: str, value: str) -> None:
    with raises_user_error(code, setting="--merge", mentions=value):
        merge_classes(make(random_matrices()), groups)


def test_a_group_may_take_the_name_of_its_member() -> None:
    merged = merge_classes(make(random_matrices()), {"car": ["car", "truck", "bus"]})
    assert merged.classes == ("road", "sidewalk", "car")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    per_image = make(random_matrices())
    path = RunLayout(tmp_path).per_image_counts("val")
    write_per_image_counts(path, per_image)
    read = read_per_image_counts(path)
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation-val.npz"]
    for name in ("dataset", "digest", "split", "classes", "keys"):
        assert getattr(read, name) == getattr(per_image, name)
    for name in ("starts", "cells", "counts", "instances"):
        mine, theirs = getattr(per_image, name), getattr(read, name)
        assert np.array_equal(mine, theirs) and mine.dtype == theirs.dtype


def test_a_file_of_no_images_can_be_read(tmp_path: Path) -> None:
    write_per_image_counts(tmp_path / "e.npz", collect_counts("street", "", "val", CLASSES, []))
    read = read_per_image_counts(tmp_path / "e.npz")
    assert len(read) == 0 and read.instances is None and not read.total().any()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.npz"
    write_per_image_counts(path, make(random_matrices()))
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        write_per_image_counts(path, make(random_matrices(seed=1)))
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    write_per_image_counts(path, make(random_matrices()))
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = [b"", b"text", content[:-30], content[:middle], content[:middle] + bytes(64) + content[middle + 64 :]]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError) as refusal:
            read_per_image_counts(path)
        assert refusal.value.code in ("MSA-EVAL-008", "MSA-EVAL-009")
    np.savez(path, about=np.array({"format": 1}, dtype=object))  # would run code if unpickled
    with raises_user_error("MSA-EVAL-008"):
        read_per_image_counts(path)
    np.save(path.open("wb"), np.zeros(3))
    with raises_user_error("MSA-EVAL-008"):
        read_per_image_counts(path)
    with raises_user_error("MSA-EVAL-007", mentions="none.npz"):
        read_per_image_counts(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"starts": np.array([0, 1], np.int64)},
        {"starts": None},
        {"cells": np.array([999], np.int32)},
        {"cells": np.array([-1], np.int32)},
        {"counts": np.array([-5], np.int64)},
        {"counts": np.array([5.0])},
        {"keys": np.array(["a", "b", "c"])},
        {"instances": np.ones((2, 4), np.int64)},
        {"about": {"classes": 3}},
        {"about": {"split": None}},
        {"about": {"version": 2}},
    ],
)
def test_inconsistent_content_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "e.npz"
    write_per_image_counts(path, make(np.eye(5, 6, dtype=np.int64)[None]))
    arrays = dict(np.load(path))
    about = json.loads(str(arrays["about"]))
    if "about" in change:
        arrays["about"] = np.array(json.dumps({**about, **change["about"]}))
    else:
        arrays |= change
        arrays = {name: array for name, array in arrays.items() if array is not None}
        if "cells" in change:
            arrays |= {"cells": np.repeat(change["cells"], 5)}
        if "counts" in change:
            arrays |= {"counts": np.repeat(change["counts"], 5)}
    np.savez(path, **arrays)
    is_other_version = change.get("about") == {"version": 2}
    with raises_user_error("MSA-EVAL-008" if is_other_version else "MSA-EVAL-009", mentions="e.npz"):
        read_per_image_counts(path)
