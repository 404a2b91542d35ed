"""The confusion counts of every image in a file, so that scores, intervals and comparisons need no second inference.

Only the cells that are not zero are stored, a few dozen of an image's 380 (19 classes) or 6,642 (COCO).
"""

import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msanet.documents import is_line
from msanet.errors import UserError, nearest
from msanet.evaluation.instances import are_valid
from msanet.files import atomic_file

FORMAT = "msanet per-image confusion counts"
VERSION = 1
MAX_BYTES = 2**30
"""Uncompressed; the counts of COCO's 118,000 training images take less than 200 MB."""
MOST_CLASSES = 4096
"""Of an evaluation: the counts of all images, and of one, are matrices of K x K of 8 bytes, 134 MB each."""
_MOST_PIXELS = 2**40  # of one cell of one image, so that sums fit 64 bits


@dataclass(frozen=True)
class ImageCounts:
    """One image: its number in the split, its key, and the nonzero cells of its matrix (K, K + 1), row by row."""

    number: int
    key: str
    cells: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class ClassCounts:
    """Pixels by class, int64 (..., K): predicted right, labeled, and predicted (on labeled pixels)."""

    right: np.ndarray
    support: np.ndarray
    predicted: np.ndarray

    def __add__(self, other: "ClassCounts") -> "ClassCounts":
        return ClassCounts(self.right + other.right, self.support + other.support, self.predicted + other.predicted)

    def sum(self) -> "ClassCounts":
        """(K,): over all images of (N, K)."""
        return ClassCounts(self.right.sum(axis=0), self.support.sum(axis=0), self.predicted.sum(axis=0))


@dataclass(frozen=True)
class PerImageCounts:
    """All images of one split in order. A matrix is (K, K + 1), its last column predicted void.

    starts: (N + 1,) int64; image i has cells[starts[i]:starts[i + 1]] (int32, row * (K + 1) + column, ascending) and the
    same number of counts (int64). dataset, digest: of the manifest. instances: (M, 5), see `instance_rows`.
    """

    dataset: str
    digest: str
    split: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    starts: np.ndarray
    cells: np.ndarray
    counts: np.ndarray
    instances: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def matrix(self, image: int) -> np.ndarray:
        """(K, K + 1) int64: the matrix of one image, by its place in `keys`."""
        mine = slice(self.starts[image], self.starts[image + 1])
        matrix = np.zeros(self.num_classes * (self.num_classes + 1), dtype=np.int64)
        matrix[self.cells[mine]] = self.counts[mine]
        return matrix.reshape(self.num_classes, -1)

    def total(self, weights_N: np.ndarray | None = None) -> np.ndarray:
        """(K, K + 1) int64: the sum over images, each taken weights_N times (integers; once unless given)."""
        counts = self.counts if weights_N is None else self.counts * weights_N[self._images()]
        matrix = np.zeros(self.num_classes * (self.num_classes + 1), dtype=np.int64)
        np.add.at(matrix, self.cells, counts)
        return matrix.reshape(self.num_classes, -1)

    def class_counts(self) -> ClassCounts:
        """(N, K) counts of each image, from which every metric but single confusions follows."""
        images, (rows, columns) = self._images(), divmod(self.cells, self.num_classes + 1)

        def count(chosen: np.ndarray, classes: np.ndarray) -> np.ndarray:
            found = np.zeros((len(self), self.num_classes), dtype=np.int64)
            np.add.at(found, (images[chosen], classes[chosen]), self.counts[chosen])
            return found

        predicted = count(columns < self.num_classes, columns)
        return ClassCounts(count(rows == columns, rows), count(rows >= 0, rows), predicted)

    def _images(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


def require_countable(num_classes: int) -> None:
    """Raise UserError where the confusions of so many classes would take too much memory."""
    if num_classes > MOST_CLASSES:
        raise UserError(
            "MSA-EVAL-790",
            f"the dataset has {num_classes} classes, expected at most {MOST_CLASSES} in an evaluation, which counts each pair of "
            f"them ({8e-9 * num_classes**2:.1f} GB); train with data.val_split=null, or evaluate under a label scheme of fewer",
            setting="data.val_split",
        )


def image_counts(number: int, key: str, matrix: np.ndarray) -> ImageCounts:
    """The nonzero cells of one image's integer matrix (K, K), or (K, K + 1) with predicted void last (about 1 KB)."""
    num_classes = len(matrix)
    if matrix.shape[1] == num_classes:
        matrix = np.pad(matrix, ((0, 0), (0, 1)))
    assert matrix.shape == (num_classes, num_classes + 1), f"{matrix.shape}"
    cells = np.flatnonzero(matrix)
    return ImageCounts(number, key, cells.astype(np.int32), matrix.ravel()[cells].astype(np.int64))


def collect_counts(
    dataset: str,
    digest: str,
    split: str,
    classes: tuple[str, ...],
    images: Iterable[ImageCounts],
    instances: np.ndarray | None = None,
) -> PerImageCounts:
    """The counts of all ranks' images, in any order."""
    ordered = sorted(images, key=lambda image: image.number)
    return PerImageCounts(
        dataset,
        digest,
        split,
        classes,
        tuple(image.key for image in ordered),
        np.cumsum([0, *(len(image.cells) for image in ordered)], dtype=np.int64),
        np.concatenate([np.zeros(0, np.int32), *(image.cells for image in ordered)]),
        np.concatenate([np.zeros(0, np.int64), *(image.counts for image in ordered)]),
        instances,
    )


def merge_classes(per_image: PerImageCounts, groups: Mapping[str, Sequence[str]]) -> PerImageCounts:
    """The same images with the classes of each group as one, {new name: its classes}, without instances.

    A group takes the place of its first class; confusions inside it become right. Raises UserError for an unknown class, a
    class in two groups or the name of another class.
    """
    group_of: dict[str, str] = {}
    for group, members in groups.items():
        for member in members:
            if member not in per_image.classes:
                raise UserError(
                    "MSA-EVAL-005",
                    f"class '{member}' of group '{group}' is unknown; {nearest(member, [*per_image.classes])}",
                    setting="--merge",
                )
            if member in group_of:
                raise UserError(
                    "MSA-EVAL-006",
                    f"class '{member}' is in group '{group_of[member]}' and again in '{group}', expected once; remove one",
                    setting="--merge",
                )
            group_of[member] = group
    for group in groups:
        if group in per_image.classes and group not in group_of:
            raise UserError(
                "MSA-EVAL-006",
                f"group '{group}' has the name of a class outside it, expected a name of its own; choose another",
                setting="--merge",
            )
    name_of = {name: group_of.get(name, name) for name in per_image.classes}
    classes = tuple(dict.fromkeys(name_of.values()))
    place = np.array([classes.index(name) for name in name_of.values()] + [len(classes)])
    rows, columns = divmod(per_image.cells, per_image.num_classes + 1)
    size = len(classes) * (len(classes) + 1)
    cells = per_image._images() * size + place[rows] * (len(classes) + 1) + place[columns]
    merged, where = np.unique(cells, return_inverse=True)
    counts = np.zeros(len(merged), dtype=np.int64)
    np.add.at(counts, where, per_image.counts)
    starts = np.searchsorted(merged, np.arange(len(per_image) + 1) * size)
    cells = (merged % size).astype(np.int32)
    return replace(per_image, classes=classes, starts=starts, cells=cells, counts=counts, instances=None)


def write_per_image_counts(path: Path, per_image: PerImageCounts) -> None:
    """Write the file completely or not at all."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": per_image.dataset,
        "digest": per_image.digest,
        "split": per_image.split,
        "classes": per_image.classes,
    }
    arrays: dict[str, Any] = {"starts": per_image.starts, "cells": per_image.cells, "counts": per_image.counts}
    if per_image.instances is not None:
        arrays["instances"] = per_image.instances
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        keys = np.array(per_image.keys, dtype=np.str_)
        np.savez_compressed(file, about=np.array(json.dumps(about)), keys=keys, **arrays)


def read_per_image_counts(path: Path) -> PerImageCounts:
    """Read and check the file. Raises UserError if it does not exist, is not written by msanet or is damaged."""
    if not path.is_file():
        raise UserError(
            "MSA-EVAL-007",
            f"'{path}' does not exist, expected the per-image counts of an evaluation; run msanet evaluate first",
        )
    try:
        with zipfile.ZipFile(path) as file:
            is_known = sum(info.file_size for info in file.infolist()) <= MAX_BYTES
            arrays = {name.removesuffix(".npy"): _array(file.read(name)) for name in file.namelist() if is_known}
        about = json.loads(str(arrays.pop("about")))
        is_known = about["format"] == FORMAT and about["version"] == VERSION
    except Exception:  # zipfile, its decoders and NumPy raise any kind where the bytes are not as they expect
        is_known = False
    if not is_known:
        raise UserError(
            "MSA-EVAL-008",
            f"'{path}' is damaged or not a file written by msanet, expected {FORMAT}, version {VERSION}; evaluate again",
        )
    problem = _find_problem(about, arrays)
    if problem:
        raise UserError("MSA-EVAL-009", f"'{path}' is damaged ({problem}), expected consistent counts; evaluate again")
    classes, keys = tuple(about["classes"]), tuple(arrays.pop("keys").tolist())
    return PerImageCounts(about["dataset"], about["digest"], about["split"], classes, keys, **arrays)


def _array(data: bytes) -> np.ndarray:
    """An .npy file. Raises ValueError, before memory is allocated, if its size is not that of the array it claims."""
    file = io.BytesIO(data)
    assert np.lib.format.read_magic(file) == (1, 0)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError("cut short")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _find_problem(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> str | None:
    """What is wrong with the content of a file."""

    def outside(values: np.ndarray, low: int, high: int) -> bool:
        return bool(((values < low) | (values > high)).any())

    kinds = {"keys": "U", "starts": "int64", "cells": "int32", "counts": "int64"}
    for name, kind in kinds.items():
        array = arrays.get(name)
        if array is None or array.ndim != 1 or kind not in (array.dtype.kind, array.dtype.name):
            return f"'{name}' is missing or of another kind"
    if extra := arrays.keys() - kinds.keys() - {"instances"}:
        return f"'{min(extra)}' is unknown"
    classes = about.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in [*classes, *_names(about)]):
        return "names are missing"
    if not (0 < len(classes) <= MOST_CLASSES and len(set(classes)) == len(classes)):
        return f"it has {len(classes)} classes, expected 1 to {MOST_CLASSES} names"
    if not all(map(is_line, [*classes, *_names(about), *arrays["keys"].tolist()])):
        return "names are not of letters"
    keys, starts, cells, counts = (arrays[name] for name in kinds)
    if len(starts) != len(keys) + 1 or starts[0] or (starts[1:] < starts[:-1]).any() or starts[-1] != len(cells):
        return "images and cells do not match"
    largest = len(classes) * (len(classes) + 1) - 1
    if len(counts) != len(cells) or outside(counts, 1, _MOST_PIXELS) or outside(cells, 0, largest):
        return "cells and counts do not match"
    instances = arrays.get("instances")
    if instances is not None and (instances.ndim != 2 or instances.shape[1] != 5 or instances.dtype != np.int64):
        return "'instances' is of another kind"
    if instances is not None and not are_valid(instances):
        return "'instances' contains impossible ids or pixels"
    return None


def _names(about: dict[str, Any]) -> tuple[Any, ...]:
    return about.get("dataset"), about.get("digest"), about.get("split")
