"""The objects of one image of MS-COCO to a map of category ids."""

import json
from dataclasses import dataclass, field

import numpy as np

from msanet.data.image.codec import MAX_PIXELS
from msanet.datasets import IGNORE_INDEX, id_dtype
from msanet.errors import UserError
from sharding.notes import note
from sharding.readers.labels import need
from sharding.readers.rasterize import coco_rle

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

    crowd: `class` paints a crowd as its category, `ignore` as `ignored`, which is above all of them.
    """

    crowd: str
    ignored: int = field(default=IGNORE_INDEX, repr=False)  # the plan has it with the classes

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
                rle = coco_rle(outline, height, width)
                layers.append((not is_crowd, -int(mask.area(rle)), category, rle))
                if not mask.area(rle):
                    note(NO_PIXEL, f"{name}, object {number}")
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise UserError(
                    "MSA-PACK-040",
                    f"'{name}': the outline of object {number} cannot be drawn ({error}), expected polygons of 3 points "
                    f"or more, or run lengths, for {width}x{height} pixels; fix it or remove the object",
                ) from error
        label_HW = np.zeros((height, width), id_dtype(1, [self.ignored]))
        for is_single, _, category, rle in sorted(layers, key=lambda layer: layer[:2]):
            is_ignored = not is_single and self.crowd == "ignore"
            label_HW[mask.decode(rle).astype(bool)] = self.ignored if is_ignored else category
        return label_HW
