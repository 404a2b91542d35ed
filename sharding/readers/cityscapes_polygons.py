"""Cityscapes' `*_polygons.json` to label ids, equal to the pixel to `json2labelImg` of cityscapesscripts."""

import json
from dataclasses import dataclass

import numpy as np

from msanet.data.image.codec import check_pixels
from msanet.datasets.cityscapes import LABELS
from msanet.errors import UserError
from sharding.readers.rasterize import Points, draw_in_order

_IDS = {label.name: label.id for label in LABELS} | {"license plate": -1}
"""Polygons of license plates are not drawn: the car below stays."""


@dataclass(frozen=True)
class DrawPolygons:
    """Each polygon on top of those before it; deleted ones are not drawn, `cargroup` counts as `car`."""

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        try:
            content = json.loads(data)
            height, width = int(content["imgHeight"]), int(content["imgWidth"])
            check_pixels(width, height, name)
            objects: list[tuple[str, Points]] = [
                (str(row["label"]), row["polygon"]) for row in content["objects"] if not row.get("deleted")
            ]
            drawn = [(_id(label, name), points) for label, points in objects]
            return draw_in_order([(id, points) for id, points in drawn if id >= 0], height, width)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(
                "MSA-PACK-782",
                f"'{name}' cannot be drawn ({type(error).__name__}: {' '.join(str(error).split())[:80]}), expected polygons of "
                "Cityscapes: imgHeight, imgWidth and objects of a label and a polygon; replace the file",
            ) from error


def _id(label: str, name: str) -> int:
    id = _IDS.get(label, _IDS.get(label.removesuffix("group")))
    if id is None:
        raise UserError(
            "MSA-PACK-783",
            f"'{name}' has a polygon of '{label}', expected labels of Cityscapes such as {', '.join([*_IDS][7:10])}; fix it, or "
            "pack polygons of classes of your own with msanet pack labelme",
        )
    return id
