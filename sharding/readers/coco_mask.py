"""The objects of one image of MS-COCO to a map of category ids."""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from msanet.data.image.codec import MAX_PIXELS
from msanet.datasets import IGNORE_INDEX
from msanet.errors import UserError
from sharding.notes import note
from sharding.readers.labels import need

CROWD = ("class", "ignore")
NO_PIXEL = (
    "objects are so small that they cover no pixel (if that is true of most, their coordinates are not in pixels)"
)


@dataclass(frozen=True)
class DecodeObjects:
    """Category ids, 0 where no object is, from the JSON of `sharding.readers.coco`: [id, category, is crowd, outline].

    Where objects overlap the smaller one is on top, and of two of the same size that with the higher id; crowds lie
    below all else, since their outlines are coarse. COCO itself has no rule (an official one would be moot: its
    evaluation is by instance), and conversions differ; this one needs no order of the file and keeps a fork on a table.

    crowd: `class` paints a crowd as its category, `ignore` as 255.
    """

    crowd: str

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        mask = need("pycocotools.mask", "pycocotools")
        image = json.loads(data)
        height, width = image["height"], image["width"]
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise UserError(
                "MSA-PACK-040", f"'{name}' has a size of {width}x{height}, expected 1 to {MAX_PIXELS} pixels; fix it"
            )
        layers = []
        for number, category, is_crowd, outline in image["objects"]:
            try:
                rle = _rle(mask, outline, height, width)
                layers.append((not is_crowd, -int(mask.area(rle)), category, rle))
                if not mask.area(rle):
                    note(NO_PIXEL, f"{name}, object {number}")
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise UserError(
                    "MSA-PACK-040",
                    f"'{name}': the outline of object {number} cannot be drawn ({error}), expected polygons of 3 points "
                    f"or more, or run lengths, for {width}x{height} pixels; fix it or remove the object",
                ) from error
        label_HW = np.zeros((height, width), np.uint8)
        for is_single, _, category, rle in sorted(layers, key=lambda layer: layer[:2]):
            ignored = not is_single and self.crowd == "ignore"
            label_HW[mask.decode(rle).astype(bool)] = IGNORE_INDEX if ignored else category
        return label_HW


def _rle(mask: Any, outline: Any, height: int, width: int) -> Any:
    """Polygons or run lengths as compressed run lengths. ValueError where pycocotools would guess, or crash."""
    if isinstance(outline, list):
        for polygon in outline:
            _check_polygon(polygon, height, width)
        if not outline:
            raise ValueError("it has no polygon")
        return mask.merge(mask.frPyObjects(outline, height, width))
    if outline["size"] != [height, width]:
        raise ValueError(f"it is for a height and width of {outline['size']}")
    counts = outline["counts"]
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
        raise ValueError("its run lengths do not fill the image")
    return mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def _run_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths as numbers. pycocotools would read them itself, and crash where they are damaged.

    Each is written in groups of five bits, the lowest first, one letter from "0" on for each group; bit 5 of a letter
    says that another follows, bit 4 of the last one is the sign. From the fourth on it is the difference to the last but
    one.
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        group = ord(letter) - ord("0")
        if not 0 <= group < 64:
            raise ValueError(f"its run lengths have the letter {letter!r}")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (1 << shift) * bool(group & 16)
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if len(polygon) < 6 or len(polygon) % 2:  # four numbers would be taken as a box
        raise ValueError(f"a polygon has {len(polygon)} numbers")
    for number, size in zip(polygon, (width, height) * (len(polygon) // 2), strict=True):
        # Far outside, the line alone would fill the memory.
        if not (math.isfinite(number) and -size <= number <= 2 * size):
            raise ValueError(f"a polygon has a corner at {number}")
