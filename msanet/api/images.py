"""What `Model` takes for an image: paths, PIL images, arrays, and several of these."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from msanet.errors import UserError
from msanet.inference.writer import read_image
from msanet.report.palette import UInt8

AnyImage = str | Path | Image.Image | NDArray[np.uint8]
"""A path, a PIL image, or an array (H, W, 3) of RGB; an array (N, H, W, 3) is several images of one size."""

_EXPECTED = "expected a path, a PIL image, or a uint8 array (H, W, 3) or (N, H, W, 3) of RGB"
_EIGHT_BITS = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")


def images_of(images: Any) -> tuple[list[UInt8], Callable[[list[Any]], Any]]:
    """Images as (H, W, 3) arrays, and what joins their results: one, an array or a list, as they were given.

    Raises:
        UserError: Something is not an image.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return [_array(image) for image in images], np.stack
    if isinstance(images, Sequence) and not isinstance(images, str):
        return [_image(image) for image in images], list
    return [_image(images)], lambda results: results[0]


def _image(image: AnyImage) -> UInt8:
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if not isinstance(image, Image.Image):
        return _array(image)
    if image.mode not in _EIGHT_BITS:
        found = f"an image has the mode {image.mode} of PIL"
        raise UserError("MSA-API-003", f"{found}, expected 8 bits a channel; convert it over the range that matters")
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _array(image: Any) -> UInt8:
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
        is_array = isinstance(image, np.ndarray)
        found = f"an array {image.shape} of {image.dtype}" if is_array else f"a {type(image).__name__}"
        raise UserError("MSA-API-003", f"an image is {found}, {_EXPECTED}; convert it")
    return image
