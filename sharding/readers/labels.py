"""From the bytes of a label file to the dataset's own ids: images as most datasets have them, and MATLAB files."""

import importlib
import io
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from msanet.data.image.codec import FORMATS, MAX_PIXELS, decode_label
from msanet.errors import UserError

Decode = Callable[[bytes, str], np.ndarray]
"""(a label's bytes, its name for errors) -> ids (H, W), integers as `DatasetSpec.train_ids` knows them.

It goes to worker processes, and its repr goes into the plan: a frozen dataclass, whose fields are all that its result
depends on, does both. Raises UserError where the bytes are at fault.
"""

_GREY = 0  # a PNG's color type
_PNG_END = b"IEND\xae\x42\x60\x82"


def decode_ids(data: bytes, name: str) -> np.ndarray:
    """The usual label: an image whose grey values or palette indices are the ids."""
    check_decodable(data, name)
    bits, color_type = (data[24], data[25]) if data[:4] == b"\x89PNG" else (8, _GREY)
    if color_type == _GREY and bits < 8:
        # Decoders stretch such greys to 0..255, which would silently change the ids.
        raise UserError(
            "MSA-PACK-026",
            f"label '{name}' has {bits} bits per pixel, expected 8-bit grey or palette; save it with 8 bits",
        )
    return decode_label(data, name)


def check_decodable(data: bytes, name: str) -> None:
    """Raise UserError unless the image decodes to its last byte.

    Pillow is asked before OpenCV since it fails on truncated data without writing to stderr. Its `verify` covers the
    checksums of a PNG, `load` the pixels; neither misses the end that OpenCV wants.
    """
    try:
        if data.startswith(b"\x89PNG") and _PNG_END not in data:
            raise ValueError("its end is missing")
        for step in ("verify", "load"):
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
                getattr(image, step)()
    except Exception as error:  # Pillow raises any kind where a file is damaged
        # Its words for an unknown header show the address of a Python object; they help nobody.
        what = "not an image" if "identify" in str(error) else str(error)
        raise UserError(
            "MSA-PACK-027",
            f"'{name}' cannot be decoded ({what}; {len(data)} bytes), expected a complete image; replace or remove it",
        ) from error


def from_mat(data: bytes, name: str, variable: str, take: Callable[[Any], np.ndarray]) -> np.ndarray:
    """What `take` makes of a `variable` of a MATLAB file, whose structs have their fields as attributes.

    Raises UserError if the file is damaged or `take` does not find in it what it looks for.
    """
    io_module = need("scipy.io", "scipy")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file, we say enough
            content = io_module.loadmat(io.BytesIO(data), variable_names=[variable], struct_as_record=False)
        return take(content[variable])
    except UserError:
        raise
    except Exception as error:  # scipy raises any kind where the bytes are not as it expects
        words = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(
            "MSA-PACK-028",
            f"'{name}' cannot be read ({words}; {len(data)} bytes), expected a MATLAB 5 file with "
            f"'{variable}' as the dataset's authors distribute it; replace the file",
        ) from error


def need(module: str, package: str) -> ModuleType:
    """A module of a package that only some datasets need. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            "MSA-PACK-029",
            f"the package {package} is not installed, expected it for this dataset's annotations; run: "
            f"pip install {package}",
        ) from error
