"""One sample: from a WebDataset sample of encoded members to what the network gets."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from msanet.config import DataConfig
from msanet.data.image.band_jitter import band_jitter_array
from msanet.data.image.bands import fill_value
from msanet.data.image.codec import LazyImage, open_image, open_label
from msanet.data.image.color import choose_jitter, color_jitter_uint8, sample_rng
from msanet.data.image.crop import choose_crops, crop_pair
from msanet.datasets import IGNORE_INDEX
from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.errors import UserError

NO_JITTER = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class TrainSample:
    """One training sample. image_HWC: of the dataset's type. label_HW: uint8.

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


def open_pair(sample: dict[str, Any]) -> tuple[LazyImage, LazyImage]:
    """Image and label of a WebDataset sample of bytes or arrays. Raises UserError if one cannot be opened."""
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
    """(H, W, C) image, 8-bit RGB or bands, and (H, W) label of train ids, uint8, of one WebDataset sample."""
    image, label = (lazy.window(0, 0, *lazy.size) for lazy in open_pair(sample))
    return image, label


def augment_sample(sample: dict[str, Any], number: int, epoch: int, config: DataConfig, seed: int) -> TrainSample:
    """Crop, flip and, if configured, jitter one WebDataset sample. Raises UserError if it cannot be read."""
    rng = sample_rng(seed, epoch, number)
    image, label = open_pair(sample)
    crops = choose_crops(image.size, config, rng)
    image_HWC, label_HW = crop_pair(image, label, crops, config.cat_max_ratio, fill_value(config.mean, image.dtype))
    jitter = choose_jitter(config, rng)
    if config.jitter_on == "loader":
        is_rgb = image_HWC.dtype == np.uint8 and image_HWC.shape[2] == 3
        image_HWC = (color_jitter_uint8 if is_rgb else band_jitter_array)(image_HWC, jitter)
        jitter = NO_JITTER
    return TrainSample(number, epoch, image_HWC, label_HW, jitter)


def placeholder_sample(
    number: int, epoch: int, config: DataConfig, error: str, image: ImageFormat = RGB8
) -> TrainSample:
    """The replacement for a bad sample: the mean color, and a label that is ignored everywhere."""
    size = config.crop or config.resize
    assert size, "config requires one if samples may be skipped"
    image_HWC = np.full((*size, image.channels), fill_value(config.mean, image.dtype), image.dtype)
    return TrainSample(number, epoch, image_HWC, np.full(size, IGNORE_INDEX, np.uint8), NO_JITTER, error)
