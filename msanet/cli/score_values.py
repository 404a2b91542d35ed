"""How `msanet score` reads the values of label maps: as train ids, as the dataset's own ids, or by colors."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from msanet.data.image.grey_png import decode_grey_png
from msanet.datasets import CITYSCAPES, IGNORE_INDEX, IGNORE_INDEX_16, VOC, DatasetSpec, ignored_value
from msanet.datasets.cityscapes import LABELS
from msanet.errors import UserError
from msanet.evaluation.instances import OTHER_VEHICLE, OTHER_VEHICLE_IDS
from sharding.notes import take_notes
from sharding.readers.folder import Classes, mask_reader
from sharding.readers.mask_file import MaskFile, read_mask
from sharding.readers.mask_reader import MaskReader, reader_of
from sharding.readers.reader import SamplePaths
from sharding.readers.wide_mask import WideMaskReader
from sharding.tree import FolderTree

logger = logging.getLogger(__name__)

VALUES = ("auto", "train-ids", "ids", "colors")
_VOID_COLORS = {
    VOC.name: [(224, 224, 192)],
    CITYSCAPES.name: [label.color for label in LABELS if label.train_id == IGNORE_INDEX],
    "camvid": [(0, 0, 0)],
}
"""Colors of pixels that do not count, in pictures of these datasets."""
_SAMPLES = 16
"""So many files are looked at to find out how values are meant; all others are checked when they are counted."""
_CLEARLY = 2.0
"""By how much the agreement with the truth must be higher, where values fit two meanings."""
_LEAST = 0.1
"""Share of labeled pixels that must agree then."""


@dataclass(frozen=True)
class ValueReader:
    """Files of label maps to train ids.

    Args:
        kind: One of VALUES but auto.
        masks: What palettes and colors mean, and which ids there are.
        forced: The kind was given, so that palettes are ignored (or, with colors, decide alone).
        other_vehicles: Caravans and trailers of Cityscapes become OTHER_VEHICLE, as iIoU needs them, and not void.
    """

    kind: str
    masks: MaskReader | WideMaskReader
    forced: bool = False
    other_vehicles: bool = False

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(256, IGNORE_INDEX, np.uint8)
        for value, train_id in self.masks.spec.train_ids.items():
            table[value] = train_id
        if self.other_vehicles and self.masks.spec.train_ids.keys() >= {*OTHER_VEHICLE_IDS}:
            table[list(OTHER_VEHICLE_IDS)] = OTHER_VEHICLE
        return table

    @cached_property
    def _is_unknown(self) -> np.ndarray:
        known = [*self.masks.spec.train_ids]
        return np.array([value not in known for value in range(256)], np.uint8)

    def read(self, path: Path) -> MaskFile:
        """Decode a label map, whatever its values mean. Raises UserError where it cannot be."""
        return read_map(path.read_bytes(), str(path), IGNORE_INDEX_16 if self.has_16_bits else IGNORE_INDEX)

    @property
    def has_16_bits(self) -> bool:
        """Whether masks hold ids above 255, or predictions do."""
        return isinstance(self.masks, WideMaskReader)

    def train_ids(self, mask: MaskFile, name: str) -> np.ndarray:
        """(H, W) uint8: train ids, 255 (void), or OTHER_VEHICLE; of more than 255 classes uint16, 65535.

        Raises UserError for a value or color of no class.
        """
        ids_HW = self._ids(mask, name)
        if self.has_16_bits:
            return self.masks.spec.to_train_ids(ids_HW)
        is_void_HW = None
        if ids_HW.dtype != np.uint8:
            is_void_HW = ids_HW < 0
            ids_HW = np.where(is_void_HW, next(iter(self.masks.spec.train_ids)), ids_HW).astype(np.uint8)
        if ids_HW.max() >= self._is_unknown.argmax() and cv2.countNonZero(cv2.LUT(ids_HW, self._is_unknown)):
            self.masks.spec.to_train_ids(ids_HW)  # raises: it says which values
        train_ids_HW = np.asarray(cv2.LUT(ids_HW, self._table), np.uint8)
        if is_void_HW is not None:
            train_ids_HW[is_void_HW] = IGNORE_INDEX
        return train_ids_HW

    def describe(self, path: Path) -> str:
        """How files such as this one are read, in words."""
        try:
            mask = self.read(path)
        except (UserError, OSError):  # said when it is counted
            return f"are read as {self.kind}"
        if self.kind == "colors" or mask.pixels.ndim == 3:
            return "are read by the colors"
        return f"({'grey values' if mask.palette is None else 'indices of a palette'}) are read as {self.kind}"

    def _ids(self, mask: MaskFile, name: str) -> np.ndarray:
        if not self.forced or self.has_16_bits:
            return self.masks.ids(mask, name)
        if self.kind == "colors" and mask.palette is not None and mask.pixels.max() < len(mask.palette):
            mask = MaskFile(mask.palette[mask.pixels])
        elif self.kind == "colors" and mask.pixels.ndim == 2:
            levels = np.array(mask.levels, np.uint8)
            mask = MaskFile(np.repeat(levels[mask.pixels][..., None], 3, axis=2))
        if (mask.pixels.ndim == 3) != (self.kind == "colors"):
            raise UserError(
                "MSA-SCORE-005",
                f"'{name}' is a picture of colors, expected one channel of {self.kind}; choose --values colors",
            )
        return self.masks.ids(mask, name) if self.kind == "colors" else mask.pixels


def read_map(data: bytes, name: str, highest: int = IGNORE_INDEX) -> MaskFile:
    """Decode a label map of values up to `highest`, whatever they mean. Raises UserError where it cannot be."""
    pixels = decode_grey_png(data)
    return MaskFile(pixels) if pixels is not None and pixels.dtype == np.uint8 else read_mask(data, name, highest)


@dataclass(frozen=True)
class Files:
    """Label maps below a folder. names: their paths in it, with `/`."""

    root: Path
    names: tuple[str, ...]

    def path(self, number: int) -> Path:
        return self.root / self.names[number]


def candidates(spec: DatasetSpec, classes: tuple[Classes, Path] | None, files: Files) -> dict[str, ValueReader]:
    """{kind: reader} of the meanings that values can have; a single one where ids are train ids.

    Args:
        spec: The dataset.
        classes: Its classes file and that file's path, if it has one.
        files: Some are looked at where a classes file leaves open what grey values are.
    """
    if classes:
        pairs = [SamplePaths(str(number), name, "", name) for number, name in enumerate(files.names)]
        masks = mask_reader(*classes, FolderTree(files.root), {"": pairs})
    else:
        masks = reader_of(spec, _VOID_COLORS.get(spec.name, ()))
    own = ValueReader("ids", replace(masks, spec=_with_void(spec)))
    if all(spec.train_ids.get(k) == k for k in range(spec.num_classes)):
        return {"ids": own}  # which are the train ids
    ignored = spec.ignore_index
    plain = replace(spec, train_ids={**{k: k for k in range(spec.num_classes)}, ignored: ignored})
    of_plain = WideMaskReader(plain) if isinstance(masks, WideMaskReader) else replace(masks, spec=plain, grey="ids")
    return {"train-ids": ValueReader("train-ids", of_plain), "ids": own}


def forced(kind: str, found: dict[str, ValueReader]) -> ValueReader:
    """The reader of values whose kind was given."""
    reader = found.get(kind) or next(iter(found.values()))
    return replace(reader, kind=kind, forced=True)


@dataclass(frozen=True)
class _Trial:
    """One file read by every meaning. fits: those that know its values; right: labeled pixels that agree with the truth."""

    fits: tuple[str, ...]
    is_same: bool
    right: dict[str, int]
    labeled: int


def choose(
    found: dict[str, ValueReader],
    files: Files,
    option: str,
    truth_of: Callable[[int], np.ndarray] | None = None,
) -> ValueReader:
    """The meaning that fits the values of some of the files.

    Args:
        found: Of `candidates`.
        files: The label maps.
        option: By which the user can say it.
        truth_of: The truth (H, W) of a file by its number: decides, with a warning, where values fit two meanings.

    Raises:
        UserError: Several meanings fit.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    numbers = range(0, len(files.names), -(-len(files.names) // _SAMPLES))
    trials = [trial for number in numbers if (trial := _try(found, files.path(number), number, truth_of))]
    take_notes()  # the same will be said when the files are counted
    count = {kind: sum(kind in trial.fits for trial in trials) for kind in found}
    fits = [kind for kind in found if count[kind] == max(count.values())]
    if len(fits) == 1 or count[fits[0]] < len(trials) or all(trial.is_same for trial in trials):
        return found[fits[0]]
    labeled = max(1, sum(trial.labeled for trial in trials))
    shares = {kind: sum(trial.right.get(kind, 0) for trial in trials) / labeled for kind in fits}
    best, other = sorted(fits, key=lambda kind: -shares[kind])
    how = f"agree with the truth on {shares[best]:.1%} of its pixels as {best} and on {shares[other]:.1%} as {other}"
    if shares[best] < max(_LEAST, _CLEARLY * shares[other]):
        raise UserError(
            "MSA-SCORE-009",
            f"the values of '{files.path(0)}' and others fit both {best} and {other}{f' (they {how})' * bool(truth_of)}, "
            f"expected only one meaning; add {option} {best} or {option} {other}",
            setting=option,
        )
    logger.warning(f"values fit both {best} and {other}, and are read as {best}, since they {how}; {option} says it")
    return found[best]


def _try(
    found: dict[str, ValueReader], path: Path, number: int, truth_of: Callable[[int], np.ndarray] | None
) -> _Trial | None:
    """None where the file, or its truth, cannot be read: that is said when it is counted."""
    maps: dict[str, np.ndarray] = {}
    try:
        mask = next(iter(found.values())).read(path)
        for kind, reader in found.items():
            with suppress(UserError):
                maps[kind] = reader.train_ids(mask, str(path))
        truth_HW = truth_of(number) if truth_of and len(maps) > 1 else None
    except (UserError, OSError):
        return None
    is_same = len(maps) == len(found) and len({one.tobytes() for one in maps.values()}) == 1
    if truth_HW is None or truth_HW.shape != mask.pixels.shape[:2]:
        return _Trial(tuple(maps), is_same, {}, 0)
    is_labeled = truth_HW != ignored_value(truth_HW.dtype)
    right = {kind: int((one[is_labeled] == truth_HW[is_labeled]).sum()) for kind, one in maps.items()}
    return _Trial(tuple(maps), is_same, right, int(is_labeled.sum()))


def _with_void(spec: DatasetSpec) -> DatasetSpec:
    return replace(spec, train_ids={ignored_value(spec.id_dtype): spec.ignore_index, **spec.train_ids})
