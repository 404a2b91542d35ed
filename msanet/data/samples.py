"""One sample: from a WebDataset sample of encoded members to what the network gets."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from msanet.config import DataConfig
from msanet.config.augmentation import PHOTOMETRIC, WARPS, is_any_set
from msanet.data.image.band_jitter import band_jitter_array
from msanet.data.image.bands import fill_value
from msanet.data.image.codec import LazyImage, open_image, open_label
from msanet.data.image.color import Draws, choose_jitter, color_jitter_uint8, sample_rng
from msanet.data.image.crop import choose_crops, crop_pair
from msanet.data.image.photometric import photometric
from msanet.data.image.rare_class import crop_around_rare_class
from msanet.data.image.warp import choose_warp
from msanet.data.transforms import apply_transforms
from msanet.datasets import ignore_index, label_dtype
from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.errors import UserError

NO_JITTER = (1.0, 1.0, 1.0)
TRAIN_IDS = "__train_ids__"
"""(256,) uint8 (or as `label_table` says), where the values of a sample's label stand for other train ids."""


@dataclass(frozen=True)
class TrainSample:
    """One training sample. image_HWC: of the dataset's type. label_HW: uint8, of more than 255 classes uint16.

    jitter: brightness, contrast, saturation factors still to apply. error: why it could not be read and is skipped.
    """

    number: int
    epoch: int
    image_HWC: np.ndarray
    label_HW: np.ndarray
    jitter: tuple[float, float, float]
    error: str | None = None


class _Decoded:
    """An array as a LazyImage."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self.size, self.dtype = pixels.shape[:2], pixels.dtype

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self._pixels[top : top + height, left : left + width]


class _Relabeled:
    """A label whose values are looked up in a table."""

    def __init__(self, label: LazyImage, table: np.ndarray) -> None:
        self._label, self._table = label, table
        self.size, self.dtype = label.size, table.dtype

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self._table[self._label.window(top, left, height, width)]


def open_pair(sample: dict[str, Any]) -> tuple[LazyImage, LazyImage]:
    """Image and label of a WebDataset sample of bytes or arrays. Raises UserError if one cannot be opened."""
    image, label = _open_stored(sample)
    table = sample.get(TRAIN_IDS)
    return image, label if table is None else _Relabeled(label, table)


def _open_stored(sample: dict[str, Any]) -> tuple[LazyImage, LazyImage]:
    where = f"{sample['__url__']}:{sample['__key__']}"
    names = [name for kind in ("image.", "label.") for name in sample if name.startswith(kind)]
    if len(names) != 2:
        raise UserError(
            "MSA-DATA-012",
            f"'{where}' has the members {', '.join(names) or 'none'}, expected image and label; pack it again",
        )
    image_name, label_name = names
    image, label = sample[image_name], sample[label_name]
    if isinstance(image, np.ndarray):
        return _Decoded(image), _Decoded(label)
    pair = open_image(image, f"{where}.{image_name}"), open_label(label, f"{where}.{label_name}")
    if pair[0].size != pair[1].size:
        raise UserError(
            "MSA-DATA-013",
            f"'{where}' has an image of {pair[0].size} and a label of {pair[1].size} pixels; pack it again",
        )
    return pair


def decode_sample(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, C) image, 8-bit RGB or bands, and (H, W) label of train ids, of one WebDataset sample."""
    image, label = (lazy.window(0, 0, *lazy.size) for lazy in open_pair(sample))
    return image, label


def require_label_dtype(found: np.dtype, num_classes: int, where: str) -> None:
    """Raise UserError for a label of 8 bits where the dataset has more than 255 classes, or of 16 where it does not."""
    if found != label_dtype(num_classes):
        raise UserError(
            "MSA-DATA-797",
            f"the label of '{where}' is of {found}, expected {label_dtype(num_classes)} of a dataset of {num_classes} classes; "
            "it is of another one, pack this one again",
        )


def augment_sample(
    sample: dict[str, Any], number: int, epoch: int, config: DataConfig, seed: int, class_pixels: tuple[int, ...] = ()
) -> TrainSample:
    """Everything that is done to one WebDataset sample before it is mixed with another.

    class_pixels: labeled pixels of the split by class, which say what is rare.
    Raises UserError if it cannot be read.
    """
    rng = sample_rng(seed, epoch, number)
    where = f"{sample['__url__']}:{sample['__key__']}"
    image, label = open_pair(sample)
    require_label_dtype(label.dtype, len(class_pixels), where)
    crops = choose_crops(image.size, config, rng)
    if config.rare_class_crops:
        draws = sample_rng(seed, epoch, number, Draws.RARE_CLASS)
        crops = crop_around_rare_class(label, crops, class_pixels, config.rare_class_crops, draws)
    if is_any_set(config, WARPS):
        warp = choose_warp(crops[0].window[2:], config, sample_rng(seed, epoch, number, Draws.WARP))
        crops = [crop._replace(warp=warp) for crop in crops]
    fill = fill_value(config.mean, image.dtype)
    image_HWC, label_HW = crop_pair(image, label, crops, config.cat_max_ratio, fill)
    if is_any_set(config, PHOTOMETRIC):
        draws = sample_rng(seed, epoch, number, Draws.PHOTOMETRIC)
        image_HWC = photometric(image_HWC, config, draws, fill, where)
    jitter = choose_jitter(config, rng)
    if config.jitter_on == "loader":
        is_rgb = image_HWC.dtype == np.uint8 and image_HWC.shape[2] == 3
        image_HWC = (color_jitter_uint8 if is_rgb else band_jitter_array)(image_HWC, jitter)
        jitter = NO_JITTER
    if config.transforms:
        draws = sample_rng(seed, epoch, number, Draws.TRANSFORMS)
        image_HWC, label_HW = apply_transforms(config.transforms, image_HWC, label_HW, len(class_pixels), draws, where)
    return TrainSample(number, epoch, image_HWC, label_HW, jitter)


def placeholder_sample(
    number: int, epoch: int, config: DataConfig, error: str, image: ImageFormat = RGB8, num_classes: int = 0
) -> TrainSample:
    """The replacement for a bad sample: the mean color, and a label that is ignored everywhere."""
    size = config.crop or config.resize
    assert size, "config requires one if samples may be skipped"
    image_HWC = np.full((*size, image.channels), fill_value(config.mean, image.dtype), image.dtype)
    label_HW = np.full(size, ignore_index(num_classes), label_dtype(num_classes))
    return TrainSample(number, epoch, image_HWC, label_HW, NO_JITTER, error)
