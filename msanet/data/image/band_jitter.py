"""Brightness and contrast of images that are not 8-bit RGB, whose jitter is in color.py."""

import numpy as np
import torch
from torch import Tensor


def band_jitter(images_NHWC: Tensor, factors_N3: Tensor) -> Tensor:
    """Brightness, then contrast about the mean of each band and image, in float32; there is no saturation of bands.

    Integers stay in the range of their type, as 8-bit colors do.
    """
    brightness, contrast = (factors_N3[:, i].view(-1, 1, 1, 1) for i in range(2))
    high = float("inf") if images_NHWC.is_floating_point() else float(torch.iinfo(images_NHWC.dtype).max)
    low = -high if images_NHWC.is_floating_point() else 0.0
    x = (images_NHWC.float() * brightness).clamp_(low, high)
    mean = x.mean(dim=(1, 2), keepdim=True)
    return ((x - mean) * contrast + mean).clamp_(low, high)


def band_jitter_array(image_HWC: np.ndarray, factors: tuple[float, float, float]) -> np.ndarray:
    """`band_jitter` of one image in a loader process, of the same type in and out."""
    if factors[:2] == (1.0, 1.0):
        return image_HWC
    image = torch.from_numpy(np.ascontiguousarray(image_HWC)).unsqueeze(0)
    jittered = band_jitter(image, torch.tensor([factors], dtype=torch.float32))[0].numpy()
    return jittered if image_HWC.dtype.kind == "f" else np.rint(jittered).astype(image_HWC.dtype)
