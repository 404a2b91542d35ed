"""Outlines and run lengths to pixels, each as the tool of its format draws them: the one place where packing rasterizes.

Pillow draws labelme's shapes, pycocotools COCO's (and CVAT's and Label Studio's, which convert to COCO), OpenCV those of YOLO and
Supervisely. They differ by the pixels of an outline; which one an annotation gets is decided by the format, not by taste.
Every function raises ValueError, with a few words, where the data cannot be drawn.
"""

import base64
import io
import math
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from sharding.readers.labels import need

Points = Sequence[Sequence[float]]
_LINE_WIDTH, _POINT_RADIUS = 10, 5
"""In pixels, as `labelme.utils.shape_to_mask` has them."""


def coco_rle(outline: Any, height: int, width: int) -> Any:
    """Polygons or run lengths as pycocotools' run lengths. ValueError where pycocotools would guess, or crash."""
    mask = need("pycocotools.mask", "pycocotools")
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
        counts = run_lengths(counts)
    if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
        raise ValueError("its run lengths do not fill the image")
    return mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def run_lengths(text: str) -> list[int]:
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
    _check_inside(zip(polygon[::2], polygon[1::2], strict=True), height, width)


def _check_inside(points: Any, height: int, width: int) -> None:
    for x, y in points:
        for number, size in ((x, width), (y, height)):
            # Far outside, the line alone would fill the memory.
            if not (math.isfinite(number) and -size <= number <= 2 * size):
                raise ValueError(f"a polygon has a corner at {number}")


def _draw_coco(outline: Any, height: int, width: int) -> np.ndarray:
    decoded: np.ndarray = need("pycocotools.mask", "pycocotools").decode(coco_rle(outline, height, width))
    return decoded.view(bool)


def _draw_pillow(kind: str) -> Callable[[Any, int, int], np.ndarray]:
    """As `labelme.utils.shape_to_mask` draws shapes of this type."""

    def draw(points: Points, height: int, width: int) -> np.ndarray:
        _check_inside(points, height, width)
        canvas = Image.new("L", (width, height))
        pen, corners = ImageDraw.Draw(canvas), [(float(x), float(y)) for x, y in points]
        if kind == "polygon":
            pen.polygon(corners, outline=1, fill=1)
        elif kind == "rectangle":
            (left, right), (top, bottom) = (sorted(values) for values in zip(*corners, strict=True))
            pen.rectangle(((left, top), (right, bottom)), outline=1, fill=1)
        elif kind == "line":
            pen.line(corners, fill=1, width=_LINE_WIDTH)
        else:
            (x, y), radius = corners[0], float(_POINT_RADIUS) if kind == "point" else math.dist(*corners)
            pen.ellipse(((x - radius, y - radius), (x + radius, y + radius)), outline=1, fill=1)
        return np.asarray(canvas, dtype=bool)

    return draw


def draw_in_order(objects: Sequence[tuple[int, Points]], height: int, width: int) -> np.ndarray:
    """(value, corners) of polygons, the later on top of the earlier, on 0: as cityscapesscripts' `createLabelImage` draws."""
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for value, points in objects:
        _check_inside(points, height, width)
        pen.polygon([(x, y) for x, y in points], fill=value)
    return np.array(canvas)


def _draw_opencv(rings: Sequence[Points], height: int, width: int) -> np.ndarray:
    """The first ring without the others, corners rounded down and included, as in Supervisely's `Polygon`."""
    for ring in rings:
        _check_inside(ring, height, width)
    exterior, *holes = (np.floor(np.asarray(ring, np.float64)).astype(np.int32) for ring in rings)
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [exterior], 1)
    if holes:
        cv2.fillPoly(canvas, holes, 0)
    return canvas.view(bool)


def _draw_fractions(polygon: Sequence[float], height: int, width: int) -> np.ndarray:
    """x, y, x, y ... as fractions of the image, in float32 and cut to whole pixels as in Ultralytics' `polygon2mask`."""
    points = (np.asarray(polygon, np.float32).reshape(-1, 2) * np.array([width, height], np.float32)).astype(np.int32)
    _check_inside(points.tolist(), height, width)
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [points], 1)
    return canvas.view(bool)


def _draw_box(corners: Sequence[float], height: int, width: int) -> np.ndarray:
    """All pixels from (left, top) to (right, bottom), these included."""
    left, top, right, bottom = (math.floor(number) for number in corners)
    canvas = np.zeros((height, width), bool)
    canvas[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)] = True
    return canvas


def _draw_ellipse(numbers: Sequence[float], height: int, width: int) -> np.ndarray:
    """(center x, y, radius x, y, degrees) as CVAT's export to masks has it."""
    x, y, radius_x, radius_y = (round(number) for number in numbers[:4])
    _check_inside([(x, y), (radius_x, radius_y)], height, width)
    if min(radius_x, radius_y) < 0:
        raise ValueError("an ellipse has a negative radius")
    canvas = np.zeros((height, width), np.uint8)
    cv2.ellipse(canvas, (x, y), (radius_x, radius_y), numbers[4], 0, 360, 1, thickness=-1)
    return canvas.view(bool)


def _draw_bitmap(content: Sequence[Any], height: int, width: int) -> np.ndarray:
    """(left, top, base64 of a PNG, zlib-compressed or not): its opaque or non-zero pixels, as Supervisely and labelme do."""
    left, top, text = content
    data = base64.b64decode(text, validate=True)
    with suppress(zlib.error):  # labelme's are not compressed twice
        data = zlib.decompressobj().decompress(data, 2**28)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.width > width or image.height > height:
            raise ValueError(f"a bitmap is {image.width}x{image.height}")
        if image.mode == "RGB":
            raise ValueError("a bitmap has colors")
        has_alpha = image.mode == "P" and "transparency" in image.info
        pixels = np.asarray(image.convert("RGBA") if has_alpha else image)
    return _placed(pixels[..., -1] > 0 if pixels.ndim == 3 else pixels > 0, left, top, height, width)


def _draw_rows(content: Sequence[Any], height: int, width: int) -> np.ndarray:
    """(left, top, width, height, run lengths): row by row inside of a box, from zeros on; CVAT's masks."""
    left, top, own_width, own_height, counts = content
    if min(counts, default=-1) < 0 or sum(counts) != own_width * own_height:
        raise ValueError("its run lengths do not fill its box")
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return _placed(values.reshape(own_height, own_width), left, top, height, width)


def _placed(mask_HW: np.ndarray, left: int, top: int, height: int, width: int) -> np.ndarray:
    canvas = np.zeros((height, width), bool)
    if left < 0 or top < 0 or top + mask_HW.shape[0] > height or left + mask_HW.shape[1] > width:
        raise ValueError(f"a mask of {mask_HW.shape[1]}x{mask_HW.shape[0]} pixels at {left}, {top} leaves the image")
    canvas[top : top + mask_HW.shape[0], left : left + mask_HW.shape[1]] = mask_HW
    return canvas


def _draw_brush(text: str, height: int, width: int) -> np.ndarray:
    """Label Studio's brush: base64 of the run lengths of an RGBA image, whose opacity is the mask (rle-pack of thi.ng/umbrella).

    Bits: number of values (32), bits of a value - 1 (5), four times bits of a run length - 1 (4). Then, until all are there: a
    bit (1: a run of one value), which of the four lengths (2), length - 1, and that value once or that many values.
    """
    data = base64.b64decode(text, validate=True)
    bits = bin(int.from_bytes(b"\1" + data))[3:]
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        if position > len(bits):
            raise ValueError("its run lengths end too early")
        return int(bits[position - count : position], 2)

    total, size = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    if total != height * width * 4 or size != 8:
        raise ValueError(f"its run lengths are of {total} values of {size} bits")
    values, filled = np.zeros(total, np.uint8), 0
    while filled < total:
        is_run, count = take(1), take(lengths[take(2)]) + 1
        if filled + count > total:
            raise ValueError("its run lengths do not fill the image")
        values[filled : filled + count] = take(size) if is_run else [take(size) for _ in range(count)]
        filled += count
    return values.reshape(height, width, 4)[..., 3] > 0


DRAW: dict[str, Callable[[Any, int, int], np.ndarray]] = {
    "coco": _draw_coco,
    **{f"pillow {kind}": _draw_pillow(kind) for kind in ("polygon", "rectangle", "line", "point", "circle")},
    "opencv": _draw_opencv,
    "fractions": _draw_fractions,
    "box": _draw_box,
    "ellipse": _draw_ellipse,
    "bitmap": _draw_bitmap,
    "rows": _draw_rows,
    "brush": _draw_brush,
}
"""Kind of a shape -> (its data, height, width) to a mask (H, W) of bools."""
