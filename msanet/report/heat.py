"""Heat maps over an image: the weight of each scale, and attention."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from msanet.report.palette import UInt8
from msanet.report.panels import GUTTER

Float = NDArray[np.floating[Any]]

_CAPTION = 26  # height of the line above an image, in pixels
_FONT = 16


def heat(map_HW: Float) -> UInt8:
    """Values 0 to 1 in the colors of viridis, from dark blue to yellow: (H, W, 3) RGB."""
    return _colored(map_HW, cv2.COLORMAP_VIRIDIS)


def _colored(map_HW: Float, colors: int) -> UInt8:
    levels_HW = np.rint(np.clip(map_HW, 0.0, 1.0) * 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels_HW, colors), cv2.COLOR_BGR2RGB), np.uint8)


def scale_panel(image_HWC: UInt8, weights: Mapping[str, Float], width: int = 480) -> UInt8:
    """The image and the weight map {scale: (H, W), 0 to 1} of each scale side by side, and a color bar. width: of each."""
    height = max(1, round(image_HWC.shape[0] * width / image_HWC.shape[1]))
    images = {"image": image_HWC, **{f"scale {scale}": heat(map_HW) for scale, map_HW in weights.items()}}
    parts = [_captioned(_resized(image, height, width), name) for name, image in images.items()]
    gutter = np.full((height + _CAPTION, GUTTER, 3), 255, np.uint8)
    return np.concatenate([*(part for one in parts for part in (one, gutter)), _color_bar(height)], axis=1)


def attention_image(
    image_HWC: UInt8, maps_QHW: Float, queries_Q2: Sequence[tuple[int, int]], width: int = 960
) -> UInt8:
    """Where a module looks for each query: its map (inferno) as light on the gray image, the query marked by a white ring.

    maps_QHW: 0 and more, shown relative to each map's maximum, by the square root, since a softmax has few peaks.
    queries_Q2: (row, column). One query: the image's own size; several: a grid of images of that `width`.
    """
    gray_HWC = cv2.cvtColor(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    images = []
    for map_HW, query in zip(maps_QHW, queries_Q2, strict=True):
        strength_HW = np.sqrt(map_HW / max(float(map_HW.max()), 1e-30))
        light_HWC = _colored(strength_HW, cv2.COLORMAP_INFERNO)  # black where the module does not look
        image = np.asarray(cv2.addWeighted(gray_HWC, 0.6, light_HWC, 1.0, 0.0), np.uint8)
        _mark(image, query)
        images.append(image)
    if len(images) == 1:
        return images[0]
    height = max(1, round(image_HWC.shape[0] * width / image_HWC.shape[1]))
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    grid = np.full((rows * (height + GUTTER) - GUTTER, columns * (width + GUTTER) - GUTTER, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + GUTTER), number % columns * (width + GUTTER)
        grid[top : top + height, left : left + width] = _resized(image, height, width)
    return grid


def _mark(image_HWC: UInt8, query: tuple[int, int]) -> None:
    """A white ring on a black one, visible on every color."""
    radius = max(6, min(image_HWC.shape[:2]) // 40)
    line = max(2, radius // 4)
    center = (query[1], query[0])
    for color, thickness in (((0, 0, 0), 3 * line), ((255, 255, 255), line)):
        cv2.circle(image_HWC, center, radius, color, thickness, cv2.LINE_AA)


def _captioned(image_HWC: UInt8, text: str) -> UInt8:
    height, width = image_HWC.shape[:2]
    page = Image.new("RGB", (width, height + _CAPTION), "white")
    page.paste(Image.fromarray(image_HWC), (0, _CAPTION))
    ImageDraw.Draw(page).text((width / 2, _CAPTION / 2), text, "black", ImageFont.load_default(_FONT), anchor="mm")
    return np.array(page)


def _color_bar(height: int) -> UInt8:
    """1 above, 0 below; as high as a captioned image."""
    bar, labels = 16, 28
    page = Image.new("RGB", (bar + labels, height + _CAPTION), "white")
    ramp = np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], bar, 1)
    page.paste(Image.fromarray(heat(ramp)), (0, _CAPTION))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_FONT)
    for value, share, anchor in (("1", 0.0, "lt"), ("0.5", 0.5, "lm"), ("0", 1.0, "lb")):
        draw.text((bar + 4, _CAPTION + share * (height - 1)), value, "black", font, anchor=anchor)
    return np.array(page)


def _resized(image_HWC: UInt8, height: int, width: int) -> UInt8:
    interpolation = cv2.INTER_AREA if width < image_HWC.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image_HWC, (width, height), interpolation=interpolation), np.uint8)
