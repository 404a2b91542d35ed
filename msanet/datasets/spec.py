"""The description that every dataset gives of itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from msanet.errors import UserError

IGNORE_INDEX = 255
"""Train id of pixels that count neither in the loss nor in the evaluation (the field's convention), in labels of 8 bits."""
IGNORE_INDEX_16 = 65535
"""The same in labels of 16 bits."""
_SHOWN, _DOMINANT, _LISTED = 8, 0.8, 256


def ignore_index(num_classes: int) -> int:
    """The train id of ignored pixels of a dataset: above all of its classes. It has labels of 16 bits above 255 classes."""
    return IGNORE_INDEX if num_classes <= IGNORE_INDEX else IGNORE_INDEX_16


def label_dtype(num_classes: int) -> np.dtype[Any]:
    """The type of a dataset's labels: uint8 or uint16."""
    return np.dtype(np.uint8 if num_classes <= IGNORE_INDEX else np.uint16)


def ignored_value(dtype: np.dtype[Any]) -> int:
    """The train id of ignored pixels in labels of this type."""
    return IGNORE_INDEX if dtype == np.uint8 else IGNORE_INDEX_16


def id_dtype(num_classes: int, ids: Iterable[int]) -> np.dtype[Any]:
    """The type of the dataset's own ids in masks and predictions: uint8, or uint16 where classes or ids need it."""
    return label_dtype(num_classes) if max(ids, default=0) < 2**8 else np.dtype(np.uint16)


@dataclass(frozen=True)
class DatasetSpec:
    """Classes, colors and the table from the dataset's own label ids to train ids.

    name: how users call it. classes: one name per train id 0..K-1. palette: one RGB triple (0-255) per class.
    train_ids: {label value on disk: train id or `ignore_index`}; a value that is missing here is an error in the data.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    train_ids: Mapping[int, int]

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.palette) <= IGNORE_INDEX_16, self.name
        valid = {*range(len(self.classes)), self.ignore_index}
        assert set(self.train_ids.values()) <= valid, self.name

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def ignore_index(self) -> int:
        return ignore_index(self.num_classes)

    @property
    def id_dtype(self) -> np.dtype[Any]:
        """Of labels as they lie on disk."""
        return id_dtype(self.num_classes, self.train_ids)

    @property
    def has_16_bits(self) -> bool:
        """Whether classes are too many, or ids too high, for masks of 8 bits."""
        return bool(self.id_dtype != np.uint8)

    def to_train_ids(self, label_HW: np.ndarray) -> np.ndarray:
        """Map a label as it lies on disk, (H, W) of `id_dtype`, to train ids, (H, W) uint8, or uint16 of more than 255 classes.

        Raises UserError if the label holds a value that the table does not know.
        """
        num_values = np.iinfo(self.id_dtype).max + 1
        table = np.full(num_values, -1, dtype=np.int32)
        for value, train_id in self.train_ids.items():
            table[value] = train_id
        if label_HW.dtype != self.id_dtype:
            bits = 8 * self.id_dtype.itemsize
            raise UserError(
                "MSA-DATA-023", f"label has {label_HW.dtype} values, expected {bits}-bit ids of {self.name}"
            )
        counts = np.bincount(label_HW.ravel(), minlength=num_values)
        unknown = [int(value) for value in np.flatnonzero(counts) if table[value] < 0]
        if unknown:
            known = sorted(self.train_ids)
            listed = ", ".join(map(str, known)) if len(known) <= _LISTED else f"{len(known)} of them"
            raise UserError(
                "MSA-DATA-023",
                f"label {described_values(counts, unknown)}, expected only ids of {self.name} "
                f"({known[0]} to {known[-1]}: {listed}); fix the label or choose its dataset",
            )
        return table.astype(label_dtype(self.num_classes))[label_HW]


def described_values(counts: np.ndarray, unknown: list[int]) -> str:
    """What lies in a mask with unknown values. counts: pixels of each value."""
    share = counts[unknown].sum() / counts.sum()
    text = f"holds the value(s) {unknown[:_SHOWN]}{f' and {len(unknown) - _SHOWN} more' * (len(unknown) > _SHOWN)} ({share:.1%})"
    if len(unknown) > 1 and counts[0] + counts[255] > _DOMINANT * counts.sum():
        return f"{text}, as masks of 0 and 255 do whose edges are smoothed (anti-aliased, resized or once a JPEG)"
    return text
