"""What a camera and a codec do to the pixels of a crop, in a loader process: uint8 in and out, with OpenCV.

Color jitter, which the device does, is in color.py. See docs/decisions/0022.
"""

import math

import cv2
import numpy as np

from msanet.config import DataConfig
from msanet.config.augmentation import PHOTOMETRIC
from msanet.errors import UserError

_BLUR_SIGMA = (0.1, 2.0)
_MAX_NOISE_STD = 20.0
_JPEG_QUALITY = (30, 95)
_CUTOUT_SIDE = (1 / 8, 1 / 2)
_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
"""From R, G, B to luma and the two chromas of NTSC, in whose plane hue is an angle."""


def photometric(
    image_HWC: np.ndarray, config: DataConfig, rng: np.random.Generator, fill: tuple[float, ...], where: str
) -> np.ndarray:
    """Gamma, hue, grayscale, blur, noise, JPEG and cutout, in this order, as the settings say.

    The number of draws does not depend on the settings, so each of them draws the same whichever others are on.

    Args:
        image_HWC: uint8 RGB, not written to.
        config: Of its settings in PHOTOMETRIC at least one is set.
        rng: Of this sample.
        fill: The color of cutout.
        where: The sample, for errors.
    """
    active = [name for name in PHOTOMETRIC if getattr(config, name)]
    require_rgb8(image_HWC, active[0], where)
    is_on = dict(zip(PHOTOMETRIC, rng.random(len(PHOTOMETRIC)), strict=True))
    chosen = {name for name in active if is_on[name] < getattr(config, name)}
    u_gamma, u_hue, u_blur, u_noise, u_jpeg, *u_cutout = rng.random(9)
    noise_seed = int(rng.integers(2**31))
    if config.gamma:
        image_HWC = cv2.LUT(image_HWC, _gamma_table(1 + config.gamma * (2 * u_gamma - 1)))
    if config.hue:
        image_HWC = cv2.transform(image_HWC, _hue_rotation(2 * math.pi * config.hue * (2 * u_hue - 1)))
    if "grayscale" in chosen:
        image_HWC = cv2.cvtColor(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if "blur" in chosen:
        image_HWC = cv2.GaussianBlur(image_HWC, (0, 0), _between(_BLUR_SIGMA, u_blur))
    if "noise" in chosen:
        image_HWC = _add_noise(image_HWC, _MAX_NOISE_STD * u_noise, noise_seed)
    if "jpeg" in chosen:
        image_HWC = _through_jpeg(image_HWC, round(_between(_JPEG_QUALITY, u_jpeg)))
    if "cutout" in chosen:
        image_HWC = _cut_out(image_HWC, u_cutout, fill)
    return image_HWC


def require_rgb8(image_HWC: np.ndarray, setting: str, where: str) -> None:
    """Raise UserError for pixels that are not 8-bit RGB, the only ones that colors of which can be changed."""
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        bands = image_HWC.shape[2] if image_HWC.ndim == 3 else 1
        raise UserError(
            "MSA-DATA-752",
            f"data.{setting} is set, but '{where}' has {bands} band(s) of {image_HWC.dtype}, expected 8-bit RGB; set it to 0, "
            "and data.augment=none",
            setting=f"data.{setting}",
        )


def _between(span: tuple[float, float], u: float) -> float:
    return span[0] + (span[1] - span[0]) * u


def _gamma_table(exponent: float) -> np.ndarray:
    return np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)


def _hue_rotation(angle: float) -> np.ndarray:
    """The 3x3 matrix that turns R, G, B about the gray axis and keeps their luma."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.asarray(np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ _YIQ)


def _add_noise(image_HWC: np.ndarray, std: float, seed: int) -> np.ndarray:
    cv2.setRNGSeed(seed)  # NumPy's normal numbers take several times as long
    noise_HWC = np.empty(image_HWC.shape, np.int16)
    cv2.randn(noise_HWC, np.zeros(3), np.full(3, std))
    return cv2.add(image_HWC, noise_HWC, dtype=cv2.CV_8U)


def _through_jpeg(image_HWC: np.ndarray, quality: int) -> np.ndarray:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def _cut_out(image_HWC: np.ndarray, u: list[float], fill: tuple[float, ...]) -> np.ndarray:
    sides = [max(1, round(side * _between(_CUTOUT_SIDE, draw))) for side, draw in zip(image_HWC.shape, u, strict=False)]
    top, left = (math.floor(u[i + 2] * (image_HWC.shape[i] - sides[i] + 1)) for i in range(2))
    image_HWC = image_HWC.copy()
    image_HWC[top : top + sides[0], left : left + sides[1]] = fill
    return image_HWC
