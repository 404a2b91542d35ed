"""Color jitter and normalization, on the device, and the random numbers of all augmentation.

They depend on (seed, epoch, sample) alone, so pixels do not depend on ranks, workers or resumes.
"""

from enum import IntEnum

import cv2
import numpy as np
import torch
from torch import Tensor

from msanet.config import DataConfig


class Draws(IntEnum):
    """What random numbers are for, besides scale, crop, flips and color jitter."""

    WARP = 1
    RARE_CLASS = 2
    PHOTOMETRIC = 3
    TRANSFORMS = 4
    MIX = 5


_GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma of R, G, B


def sample_rng(seed: int, epoch: int, sample: int, purpose: int | None = None) -> np.random.Generator:
    """The random numbers of one sample in one epoch.

    purpose: one of the Draws; each has numbers of its own, so that no augmentation changes what another one draws.
    """
    key = () if purpose is None else (purpose,)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, sample), spawn_key=key)))


def choose_jitter(config: DataConfig, rng: np.random.Generator) -> tuple[float, float, float]:
    """Factors of brightness, contrast and saturation, each from [1 - x, 1 + x]."""
    u = rng.random(3) * 2 - 1
    spans = (config.brightness, config.contrast, config.saturation)
    return tuple(float(1 + span * draw) for span, draw in zip(spans, u, strict=True))  # type: ignore[return-value]


def normalize(images_NHWC: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(N, H, W, C) on the device to float32 (N, C, H, W), mean and std in the image's values; memory stays channels_last."""
    x = images_NHWC.permute(0, 3, 1, 2).float()
    return (x - _constant(mean, x.device).view(1, -1, 1, 1)) / _constant(std, x.device).view(1, -1, 1, 1)


def color_jitter(images_NHWC: Tensor, factors_N3: Tensor) -> Tensor:
    """Brightness, then contrast (about the image's mean gray), then saturation; uint8 in, float 0-255 out, (N, H, W, 3)."""
    brightness, contrast, saturation = (factors_N3[:, i].view(-1, 1, 1, 1) for i in range(3))
    gray_weights = _constant(_GRAY, images_NHWC.device)
    x = (images_NHWC.float() * brightness).clamp_(0, 255)
    mean_gray = (x @ gray_weights).mean(dim=(1, 2)).view(-1, 1, 1, 1)
    x = ((x - mean_gray) * contrast + mean_gray).clamp_(0, 255)
    gray = (x @ gray_weights).unsqueeze(-1)
    return ((x - gray) * saturation + gray).clamp_(0, 255)


def color_jitter_uint8(image_HWC: np.ndarray, factors: tuple[float, float, float]) -> np.ndarray:
    """`color_jitter` of one image in a loader process: uint8 in and out, within two gray levels of the float result.

    Brightness and contrast become one lookup table; saturation is a linear map of R, G, B.
    """
    brightness, contrast, saturation = factors
    values = np.clip(np.arange(256) * brightness, 0, 255)
    if contrast != 1:
        mean = np.dot(cv2.mean(cv2.LUT(image_HWC, _to_uint8(values)))[:3], _GRAY)
        values = np.clip((values - mean) * contrast + mean, 0, 255)
    if brightness != 1 or contrast != 1:
        image_HWC = cv2.LUT(image_HWC, _to_uint8(values))
    if saturation != 1:
        mix = np.eye(3) * saturation + (1 - saturation) * np.array(_GRAY)
        image_HWC = cv2.transform(image_HWC, mix)
    return image_HWC


def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A float32 vector made on the device: a copy from the host would synchronize."""
    return torch.stack([torch.full((), value, device=device) for value in values])


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.uint8)
