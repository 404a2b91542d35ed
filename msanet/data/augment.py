"""What happens to an image between its bytes and the network.

On the CPU, geometry: resize, random scale, crop, flips, chosen from the sizes alone before any pixel is touched. On the
device, colour jitter and normalisation, so that what crosses process borders is uint8. All randomness comes from
(seed, epoch, sample), so pixels do not depend on ranks, workers or resumes.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from msanet.config import DataConfig
from msanet.datasets import IGNORE_INDEX

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma of R, G, B


class Geometry(NamedTuple):
    """Size (h, w) to resize to, window (top, left, h, w) of the resized image to take, and which ways to mirror it.

    The window may lie partly outside: there the image is the mean colour and the label is ignored.
    """

    resized: tuple[int, int]
    window: tuple[int, int, int, int]
    mirror: tuple[bool, bool]  # left-right, top-bottom


@dataclass(frozen=True)
class Sample:
    """One training or evaluation sample. image_HWC, label_HW: uint8. jitter: brightness, contrast, saturation factors."""

    number: int
    epoch: int
    image_HWC: np.ndarray
    label_HW: np.ndarray
    jitter: tuple[float, float, float]


def sample_rng(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, sample))))


def choose_geometry(size: tuple[int, int], config: DataConfig, rng: np.random.Generator) -> Geometry:
    """Draw resize, scale, crop and flips for an image of `size` (h, w). Always takes the same number of draws."""
    u_scale, u_top, u_left, u_horizontal, u_vertical = rng.random(5)
    low, high = config.scale
    factor = math.exp(math.log(low) + u_scale * (math.log(high) - math.log(low)))
    height, width = (max(1, round(side * factor)) for side in (config.resize or size))
    crop_h, crop_w = config.crop or (height, width)
    # Larger than the crop: any place inside. Smaller: the image stays whole, somewhere within the padding.
    top = math.floor(u_top * (abs(height - crop_h) + 1)) * (1 if height >= crop_h else -1)
    left = math.floor(u_left * (abs(width - crop_w) + 1)) * (1 if width >= crop_w else -1)
    mirror = (bool(u_horizontal < config.flip_horizontal), bool(u_vertical < config.flip_vertical))
    return Geometry((height, width), (top, left, crop_h, crop_w), mirror)


def choose_jitter(config: DataConfig, rng: np.random.Generator) -> tuple[float, float, float]:
    """Factors of brightness, contrast and saturation, each from [1 - x, 1 + x]."""
    u = rng.random(3) * 2 - 1
    spans = (config.brightness, config.contrast, config.saturation)
    return tuple(float(1 + span * draw) for span, draw in zip(spans, u, strict=True))  # type: ignore[return-value]


def apply_geometry(
    image_HWC: np.ndarray, label_HW: np.ndarray, geometry: Geometry, fill: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Image (bilinear) and label (nearest) resized, cut or padded to the window, and mirrored; both stay uint8."""
    height, width = geometry.resized
    if image_HWC.shape[:2] != geometry.resized:
        image_HWC = cv2.resize(image_HWC, (width, height), interpolation=cv2.INTER_LINEAR)
        label_HW = cv2.resize(label_HW, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    image_HWC = _window(image_HWC, geometry.window, fill)
    label_HW = _window(label_HW, geometry.window, IGNORE_INDEX)
    left_right, top_bottom = geometry.mirror
    steps = (slice(None, None, -1 if top_bottom else 1), slice(None, None, -1 if left_right else 1))
    return np.ascontiguousarray(image_HWC[steps]), np.ascontiguousarray(label_HW[steps])


def _window(array: np.ndarray, window: tuple[int, int, int, int], fill: int | tuple[int, int, int]) -> np.ndarray:
    top, left, height, width = window
    inside = array[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    if inside.shape[:2] == (height, width):
        return inside
    result = np.empty((height, width, *array.shape[2:]), np.uint8)
    result[:] = fill
    row, column = max(0, -top), max(0, -left)
    result[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return result


def normalise(images_NHWC: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, H, W, 3) on the device to float32 (N, 3, H, W), mean and std in grey values; memory stays channels_last."""
    x = images_NHWC.permute(0, 3, 1, 2).float()
    return (x - x.new_tensor(mean).view(1, 3, 1, 1)) / x.new_tensor(std).view(1, 3, 1, 1)


def colour_jitter(images_NHWC: Tensor, factors_N3: Tensor) -> Tensor:
    """Brightness, then contrast (about the image's mean grey), then saturation; uint8 in, float 0-255 out, (N, H, W, 3)."""
    brightness, contrast, saturation = (factors_N3[:, i].view(-1, 1, 1, 1) for i in range(3))
    grey_weights = torch.tensor(_GREY, device=images_NHWC.device)
    x = (images_NHWC.float() * brightness).clamp_(0, 255)
    mean_grey = (x @ grey_weights).mean(dim=(1, 2)).view(-1, 1, 1, 1)
    x = ((x - mean_grey) * contrast + mean_grey).clamp_(0, 255)
    grey = (x @ grey_weights).unsqueeze(-1)
    return ((x - grey) * saturation + grey).clamp_(0, 255)
