"""A dataset of the user's own, `data.dataset=package.module:NAME`: NAME(split) gives (image, label) by number."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from msanet.data.unpacked import UnpackedDataset
from msanet.datasets import IGNORE_INDEX_16, ignore_index, label_dtype
from msanet.datasets.voc import voc_color
from msanet.errors import UserError
from msanet.plugins import first_line, is_trusted, require_plugin

_SETTING = "data.dataset"
_PHOTO_MODES = ("L", "LA", "P", "RGB", "RGBA")
_LABEL_MODES = ("1", "L", "P", "I")
_IMAGES = "a PIL image, or uint8 of shape (H, W, 3) or (3, H, W) with values 0 to 255 (no ToTensor, no normalization)"


def open_user_dataset(name: str, splits: Sequence[str]) -> UnpackedDataset:
    """Call `name` for each split.

    Raises:
        UserError: The user has not named it (in settings, or by --plugin), it cannot be imported, or what it returns is not an
            indexable dataset with `classes`.
    """
    if not is_trusted(name):
        raise UserError(
            "MSA-DATA-739",
            f"the run's data is '{name}', which is code that was not named on the command line; if you trust it, add --plugin "
            f"{name}",
            setting="--plugin",
        )
    opened = {split: UserSplit(name, split) for split in splits}
    classes = {split: items.classes for split, items in opened.items()}
    found = {*classes.values()}
    if len(found) > 1:
        raise UserError(
            "MSA-DATA-733",
            f"{_SETTING}={name} has other classes for split '{splits[0]}' than for '{splits[-1]}', expected the same; fix it",
            setting=_SETTING,
        )
    names = found.pop()
    palette = tuple(map(voc_color, range(len(names))))
    return UnpackedDataset(name, names, palette, tuple(range(len(names))), opened)


class UserSplit:
    """One split of a user's dataset, as an UnpackedSplit. A loader process calls `name` again."""

    def __init__(self, name: str, split: str) -> None:
        self.name, self.split = name, split
        self.where = f"{name}({split!r})"

    def __reduce__(self) -> tuple[Any, ...]:  # an object of the user's may not be one that can be sent
        return UserSplit, (self.name, self.split)

    @cached_property
    def _dataset(self) -> Any:
        try:
            dataset = require_plugin(self.name, _SETTING)(self.split)
        except UserError:
            raise
        except Exception as error:  # whatever a user's code does
            raise UserError(
                "MSA-DATA-735",
                f"{self.where} raised {type(error).__name__}: {first_line(error)}; fix it, or set data.train_split and "
                "data.val_split (null: none) to splits that it has",
                setting=_SETTING,
            ) from error
        lacking = [method for method in ("__len__", "__getitem__") if not hasattr(dataset, method)]
        if lacking:
            raise UserError(
                "MSA-DATA-733",
                f"{self.where} is a {type(dataset).__name__} without {' and '.join(lacking)}, expected an indexable dataset of "
                "(image, label); return one",
                setting=_SETTING,
            )
        return dataset

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by train id."""
        found = getattr(self._dataset, "classes", None)
        names = tuple(found) if isinstance(found, Sequence) and not isinstance(found, str) else ()
        if not (0 < len(names) <= IGNORE_INDEX_16 and all(isinstance(name, str) for name in names)):
            raise UserError(
                "MSA-DATA-733",
                f"{self.where} has the classes {str(found)[:80]}, expected an attribute `classes` with the name of each class; "
                "add it",
                setting=_SETTING,
            )
        return names

    def __len__(self) -> int:
        return len(self._dataset)

    def key(self, number: int) -> str:
        """The number as text: a dataset has no names."""
        return f"{number:08d}"

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 image and (H, W) label, uint8 or uint16. Raises UserError where the item is not such a pair."""
        try:
            item = self._dataset[number]
        except UserError:
            raise
        except Exception as error:  # whatever a user's code does
            raise UserError(
                "MSA-DATA-735",
                f"{self.where}[{number}] raised {type(error).__name__}: {first_line(error)}; fix it or the sample",
                setting=_SETTING,
            ) from error
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise self._bad_item(number, f"is {_described(item)}", "a pair (image, label)")
        image_HWC, label_HW = _image(item[0]), _label(item[1])
        if image_HWC is None:
            raise self._bad_item(number, f"has the image {_described(item[0])}", _IMAGES)
        if label_HW is None:
            raise self._bad_item(
                number,
                f"has the label {_described(item[1])}",
                "a PIL image or integers of shape (H, W), a class id a pixel",
            )
        if image_HWC.shape[:2] != label_HW.shape:
            sizes = f"has an image of {image_HWC.shape[:2]} and a label of {label_HW.shape} pixels"
            raise self._bad_item(number, sizes, "the same size (height, width)")
        return image_HWC, self._checked_values(number, label_HW)

    def label(self, number: int) -> np.ndarray:
        """The label of an item."""
        return self.read(number)[1]

    def instances(self, number: int) -> bytes | None:
        """None: a pair has no instance ids."""
        return None

    def content_name(self, number: int) -> str:
        """Not known: settings that need it are refused with data.dataset."""
        raise AssertionError("storage.decoded_cache_limit_bytes is checked with the settings")

    def digest(self) -> str:
        """sha256 of the callable's name, the split, the classes and the number of samples: to look at all would take an epoch."""
        content = [self.name.rpartition("/")[2], self.split, self.classes, len(self)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _checked_values(self, number: int, label_HW: np.ndarray) -> np.ndarray:
        known = len(self.classes)
        ignored = ignore_index(known)
        wrong_HW = (label_HW != ignored) & ((label_HW < 0) | (label_HW >= known))
        if wrong_HW.any():
            values = np.unique(label_HW[wrong_HW]).tolist()
            raise UserError(
                "MSA-DATA-732",
                f"the label of {self.where}[{number}] has the value(s) {values[:8]}, expected 0 to {known - 1} for its {known} "
                f"classes, or {ignored} for ignored pixels; map its values",
                setting=_SETTING,
            )
        return label_HW.astype(label_dtype(known))

    def _bad_item(self, number: int, found: str, expected: str) -> UserError:
        text = f"{self.where}[{number}] {found}, expected {expected}; fix what it returns"
        return UserError("MSA-DATA-731", text, setting=_SETTING)


def _image(value: Any) -> np.ndarray | None:
    """(H, W, 3) uint8, or None for what is no such image."""
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("RGB")) if value.mode in _PHOTO_MODES else None
    is_tensor = isinstance(value, torch.Tensor)
    pixels = value.cpu().numpy() if is_tensor else value
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        return None
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    first, last = pixels.shape[0] in (1, 3), pixels.shape[-1] in (1, 3)
    if first and (is_tensor or not last):  # torch has channels first
        pixels = pixels.transpose(1, 2, 0)
    elif not last:
        return None
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _label(value: Any) -> np.ndarray | None:
    """(H, W) integers, or None for what is no such label."""
    if isinstance(value, Image.Image):
        value = np.asarray(value) if value.mode in _LABEL_MODES else None
    pixels = value.cpu().numpy() if isinstance(value, torch.Tensor) else value
    if not isinstance(pixels, np.ndarray) or pixels.dtype.kind not in "iub" or not pixels.size:
        return None
    if pixels.ndim == 3 and 1 in (pixels.shape[0], pixels.shape[-1]):
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels[..., 0]
    return pixels if pixels.ndim == 2 else None


def _described(value: Any) -> str:
    """`a float32 ndarray of shape (3, 4, 4)`."""
    kind = type(value).__name__
    if isinstance(value, Image.Image):
        return f"a PIL image of mode {value.mode}"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {str(getattr(value, 'dtype', '')).removeprefix('torch.')} {kind} of shape {tuple(shape)}"
    return f"a {kind} of {len(value)} values" if isinstance(value, tuple | list) else f"a {kind}"
