"""The description that every dataset gives of itself."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from msanet.errors import UserError

IGNORE_INDEX = 255
"""Train id of pixels that count neither in the loss nor in the evaluation (the field's convention)."""

_SHOWN, _DOMINANT = 8, 0.8


@dataclass(frozen=True)
class DatasetSpec:
    """Classes, colors and the table from the dataset's own label ids to train ids.

    name: how users call it. classes: one name per train id 0..K-1. palette: one RGB triple (0-255) per class.
    train_ids: {label value on disk: train id or IGNORE_INDEX}; a value that is missing here is an error in the data.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    train_ids: Mapping[int, int]

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.palette) < IGNORE_INDEX, self.name
        valid = {*range(len(self.classes)), IGNORE_INDEX}
        assert set(self.train_ids.values()) <= valid, self.name

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to_train_ids(self, label_HW: np.ndarray) -> np.ndarray:
        """Map a label as it lies on disk, (H, W) integers, to train ids, (H, W) uint8.

        Raises UserError if the label holds a value that the table does not know.
        """
        table = np.full(256, -1, dtype=np.int16)
        for value, train_id in self.train_ids.items():
            table[value] = train_id
        if label_HW.dtype != np.uint8:
            raise UserError("MSA-DATA-023", f"label has {label_HW.dtype} values, expected 8-bit ids of {self.name}")
        counts = np.bincount(label_HW.ravel(), minlength=256)
        unknown = [int(value) for value in np.flatnonzero(counts) if table[value] < 0]
        if unknown:
            known = sorted(self.train_ids)
            raise UserError(
                "MSA-DATA-023",
                f"label {described_values(counts, unknown)}, expected only ids of {self.name} "
                f"({known[0]} to {known[-1]}: {', '.join(map(str, known))}); fix the label or choose its dataset",
            )
        return table.astype(np.uint8)[label_HW]


def described_values(counts: np.ndarray, unknown: list[int]) -> str:
    """What lies in a mask with unknown values. counts: pixels (256,) of each value."""
    share = counts[unknown].sum() / counts.sum()
    text = f"holds the value(s) {unknown[:_SHOWN]}{f' and {len(unknown) - _SHOWN} more' * (len(unknown) > _SHOWN)} ({share:.1%})"
    if len(unknown) > 1 and counts[0] + counts[255] > _DOMINANT * counts.sum():
        return f"{text}, as masks of 0 and 255 do whose edges are smoothed (anti-aliased, resized or once a JPEG)"
    return text
