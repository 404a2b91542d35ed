"""Packing of bands as they are (`--bands`): which ones, and that all images of a dataset are alike."""

import re
from itertools import chain, islice

import numpy as np

from msanet.data.image.band_file import read_bands, require_bands, select_bands
from msanet.datasets.image_format import MAX_BANDS, ImageFormat, describe
from msanet.errors import UserError
from sharding.readers.reader import DatasetListing
from sharding.tree import Tree

ALL = "all"
_LOOKED_AT = 20
"""Images that are tried until one can be read."""


def parse_band_numbers(text: str) -> tuple[int, ...] | None:
    """`all` to None; `4,3,2` or `1-6,9` to their numbers. Raises UserError for anything else."""
    if text.strip() == ALL:
        return None
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part, re.ASCII)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high <= 65535 or high - low >= MAX_BANDS:
            raise _bad_choice(text)
        numbers.extend(range(low, high + 1))
    if len(numbers) > MAX_BANDS or len({*numbers}) < len(numbers):
        raise _bad_choice(text)
    return tuple(numbers)


def _bad_choice(text: str) -> UserError:
    return UserError(
        "MSA-PACK-791",
        f"--bands is '{text[:80]}', expected '{ALL}', or up to {MAX_BANDS} different numbers of bands, such as 1-4,8; "
        "fix it",
        setting="--bands",
    )


def image_format(found: DatasetListing, tree: Tree, choice: str | None, codec: str) -> ImageFormat | None:
    """What the first image that can be read is, and all others are to be; None where `choice`, of --bands, is None.

    Raises UserError for a choice that is not valid, or where none of the first images can be read.
    """
    if choice is None:
        return None
    bands = parse_band_numbers(choice)
    if codec != "tiff":
        raise UserError(
            "MSA-PACK-791",
            f"--bands is given with --codec {codec}, which cannot store bands, expected tiles of TIFF; remove --codec",
            setting="--codec",
        )
    errors: list[UserError] = []
    for pair in islice(chain(*found.splits.values()), _LOOKED_AT):
        try:
            name = tree.show(pair.image)
            pixels_HWC = read_bands(tree.read(pair.image), name)
            require_bands(pixels_HWC.shape[2], bands, name)
        except UserError as error:
            errors.append(error)
        else:
            count = pixels_HWC.shape[2]
            chosen = bands or tuple(range(1, count + 1))
            return ImageFormat.model_validate({"dtype": str(pixels_HWC.dtype), "bands": chosen, "source_bands": count})
    if errors:
        raise errors[0]
    return None  # there are no images, which is said of each split


def read_alike(data: bytes, name: str, form: ImageFormat) -> np.ndarray:
    """The bands (H, W, C) of an image. Raises UserError where it is not as the dataset's first image."""
    pixels_HWC = read_bands(data, name)
    count = pixels_HWC.shape[2]
    if (count, str(pixels_HWC.dtype)) != (form.source_bands, form.dtype):
        raise UserError(
            "MSA-PACK-790",
            f"'{name}' has {describe(count, pixels_HWC.dtype)}, expected {describe(form.source_bands, form.dtype)} like the "
            "first image of the dataset; convert or remove it",
            setting="--bands",
        )
    return select_bands(pixels_HWC, form.bands, name)
