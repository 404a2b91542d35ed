"""What `Model` takes for an image: paths, PIL images, arrays, and several of these."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.errors import UserError
from msanet.inference.writer import read_image

AnyImage = str | Path | Image.Image | NDArray[Any]
"""A path, a PIL image, or an array (H, W, 3) of RGB or (H, W, C) of bands; an array (N, H, W, C) is several of one size."""

_EXPECTED = "expected a path, a PIL image, or a uint8 array (H, W, 3) or (N, H, W, 3) of RGB"
_EIGHT_BITS = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")


def images_of(images: Any, form: ImageFormat = RGB8) -> tuple[list[np.ndarray], Callable[[list[Any]], Any]]:
    """Images as (H, W, C) arrays, and what joins their results: one, an array or a list, as they were given.

    form: what they are to be.

    Raises:
        UserError: Something is not an image.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return [_array(image, form) for image in images], np.stack
    if isinstance(images, Sequence) and not isinstance(images, str):
        return [_image(image, form) for image in images], list
    return [_image(images, form)], lambda results: results[0]


def _image(image: AnyImage, form: ImageFormat) -> np.ndarray:
    if isinstance(image, str | Path):
        return read_image(Path(image), form)
    if not isinstance(image, Image.Image):
        return _array(image, form)
    if form != RGB8:
        return _array(np.asarray(image), form)
    if image.mode not in _EIGHT_BITS:
        found = f"an image has the mode {image.mode} of PIL"
        raise UserError("MSA-API-003", f"{found}, expected 8 bits a channel; convert it over the range that matters")
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _array(image: Any, form: ImageFormat) -> np.ndarray:
    is_array = isinstance(image, np.ndarray)
    if not (is_array and image.dtype == form.dtype and image.ndim == 3 and image.shape[2] == form.channels):
        found = f"an array {image.shape} of {image.dtype}" if is_array else f"a {type(image).__name__}"
        bands = f"an array (H, W, {form.channels}) of {form.dtype}, as the network was trained on"
        expected = _EXPECTED if form == RGB8 else f"expected a path or {bands}"
        raise UserError("MSA-API-003", f"an image is {found}, {expected}; convert it")
    return image
