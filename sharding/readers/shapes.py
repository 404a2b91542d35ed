"""Objects of an annotation tool to a map of classes: what readers of JSON, XML and text files give to the writer."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from msanet.data.image.codec import MAX_PIXELS
from msanet.datasets import id_dtype
from msanet.errors import UserError
from sharding.notes import note
from sharding.readers.rasterize import DRAW

NO_PIXEL = "shapes are so small that they cover no pixel"
IN_GROUP = "shapes lie wholly inside another one of their group, and are filled (--group-holes makes holes of them)"


class Shape(NamedTuple):
    """One object: its class by name, how it is drawn (a key of rasterize.DRAW), with what, and the group that it belongs to."""

    label: str
    kind: str
    data: Any
    group: str | int | None = None


def encode_shapes(shapes: Iterable[Shape], values: dict[str, int], size: tuple[int, int] | None) -> str:
    """JSON for DrawShapes. values: {label: its value in the map}. size: (height, width); None: the image's."""
    rows = [[values[shape.label], shape.kind, shape.data, shape.group] for shape in shapes]
    return json.dumps({"size": size, "shapes": rows}, separators=(",", ":"))


@dataclass(frozen=True)
class DrawShapes:
    """A map of values (H, W), 0 where no shape is, from what encode_shapes wrote.

    The later shape is on top, or where `smaller_on_top` the one of fewer pixels. With `group_holes`, in a group of one value a
    shape that lies inside the larger ones is taken out of them (and what lies in that hole, is an island).
    """

    smaller_on_top: bool = False
    group_holes: bool = False
    takes_size: ClassVar[bool] = True

    def __call__(self, data: bytes, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        content = json.loads(data)
        height, width = content["size"] or size or (0, 0)
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise UserError(
                "MSA-PACK-040", f"'{name}' has a size of {width}x{height}, expected 1 to {MAX_PIXELS} pixels; fix it"
            )
        layers = [layer for layer in self._layers(content["shapes"], height, width, name) if layer is not None]
        if self.smaller_on_top:
            layers.sort(key=lambda layer: -layer.pixels)  # stable: of two of one size the later one
        label_HW = np.zeros((height, width), id_dtype(1, (value for value, *_ in content["shapes"])))
        for layer in layers:
            label_HW[layer.box][layer.mask_HW] = layer.value
        return label_HW

    def _layers(self, rows: list[Any], height: int, width: int, name: str) -> list["_Layer | None"]:
        layers: list[_Layer | None] = []
        groups: dict[tuple[int, Any], list[int]] = {}
        for number, (value, kind, data, group) in enumerate(rows):
            mask_HW = _draw(kind, data, height, width, f"{name}, shape {number}")
            layers.append(_Layer.of(value, mask_HW))
            if layers[-1] is None:
                note(NO_PIXEL, f"{name}, shape {number}")
            elif group is not None:
                groups.setdefault((value, group), []).append(number)
        for (value, _), members in groups.items():
            found = [layer for number in members if (layer := layers[number])]
            outside_HW = _without_holes(found, height, width) if len(found) > 1 else None
            if outside_HW is not None and self.group_holes:
                for number in members:
                    layers[number] = None
                layers[members[0]] = _Layer.of(value, outside_HW)
            elif outside_HW is not None:
                note(IN_GROUP, name)
        return layers


class _Layer(NamedTuple):
    """A mask without the empty rows and columns around it, of which there are many: masks of all objects are held at once."""

    value: int
    box: tuple[slice, slice]
    mask_HW: np.ndarray
    pixels: int

    @classmethod
    def of(cls, value: int, mask_HW: np.ndarray) -> "_Layer | None":
        rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
        if not rows.size:
            return None
        box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        return cls(value, box, mask_HW[box].copy(), int(np.count_nonzero(mask_HW)))


def _without_holes(layers: list[_Layer], height: int, width: int) -> np.ndarray | None:
    """The union of masks, without those that lie wholly inside of larger ones; None where none does."""
    union_HW, has_holes = np.zeros((height, width), bool), False
    for layer in {(str(layer.box), layer.mask_HW.tobytes()): layer for layer in sorted(layers, key=_size)}.values():
        is_hole = bool(union_HW[layer.box][layer.mask_HW].all())
        has_holes |= is_hole
        union_HW[layer.box][layer.mask_HW] = not is_hole
    return union_HW if has_holes else None


def _size(layer: _Layer) -> int:
    return -layer.pixels


def _draw(kind: str, data: Any, height: int, width: int, name: str) -> np.ndarray:
    try:
        return DRAW[kind](data, height, width)
    except UserError:  # of a package that is not installed
        raise
    except Exception as error:  # Pillow, OpenCV and NumPy raise any kind where the data is not as they expect
        words = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            "MSA-PACK-040",
            f"'{name}' cannot be drawn on {width}x{height} pixels ({words}), expected an outline or a mask as its tool writes "
            "them; fix it, remove it, or export it again",
        ) from error
