"""A contact sheet: pictures in a grid with a caption below each, and a legend of colors at the end."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from msanet.files import atomic_file
from msanet.report.palette import RGB

CELL = 480
"""Width and height in pixels that a picture may take."""

_MARGIN, _GAP = 32, 16
_TITLE, _TEXT = 28, 18  # letters, in pixels
_CAPTION = 34  # room below a picture
_SWATCH, _LINE = 22, 34
_MOST_ENTRIES = 255
_PAPER: RGB = (250, 250, 250)
_INK: RGB = (28, 30, 34)
_MUTED: RGB = (96, 100, 108)
_OUTLINE: RGB = (150, 154, 160)

Legend = Sequence[tuple[str, RGB]]


def write_sheet(path: Path, title: str, cells: Sequence[np.ndarray], captions: Sequence[str], legend: Legend) -> None:
    """Write the PNG `path`, making folders as needed; it is whole or absent.

    cells: (h, w, 3) uint8 RGB of at most CELL a side, one for each caption.
    """
    sheet = draw_sheet(title, cells, captions, legend)
    with atomic_file(path, lasting=False) as temporary:
        sheet.save(temporary, format="PNG")


def draw_sheet(title: str, cells: Sequence[np.ndarray], captions: Sequence[str], legend: Legend) -> Image.Image:
    """The sheet: about as many columns as rows, each row as high as its highest picture."""
    columns = max(1, math.ceil(math.sqrt(len(cells))))
    rows = [cells[first : first + columns] for first in range(0, len(cells), columns)]
    heights = [max(cell.shape[0] for cell in row) for row in rows]
    width = 2 * _MARGIN + columns * (CELL + _GAP) - _GAP
    more = [(f"{len(legend) - _MOST_ENTRIES} more classes", None)] if len(legend) > _MOST_ENTRIES else []
    entries = [*legend[:_MOST_ENTRIES], *more, ("ignored: not colored", None)]
    per_line = _entries_per_line([name for name, _ in entries], width)
    below = _MARGIN + 2 * _TITLE + sum(heights) + len(rows) * (_CAPTION + _GAP)
    sheet = Image.new("RGB", (width, below + math.ceil(len(entries) / per_line) * _LINE + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), _shortened(title, _TITLE, width - 2 * _MARGIN), _INK, _font(_TITLE))
    top = _MARGIN + 2 * _TITLE
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        left = _MARGIN + column * (CELL + _GAP)
        sheet.paste(Image.fromarray(cell), (left + (CELL - cell.shape[1]) // 2, top + heights[row] - cell.shape[0]))
        text = _shortened(captions[number], _TEXT, CELL)
        draw.text((left + CELL / 2, top + heights[row] + _CAPTION / 2), text, _MUTED, _font(_TEXT), anchor="mm")
        if column == columns - 1:
            top += heights[row] + _CAPTION + _GAP
    _draw_legend(draw, entries, (_MARGIN, below), per_line, width)
    return sheet


def _entries_per_line(names: Sequence[str], width: int) -> int:
    longest = max(_font(_TEXT).getlength(name) for name in names)
    return max(1, int((width - 2 * _MARGIN) // (longest + _SWATCH + 3 * _GAP)))


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    entries: Sequence[tuple[str, RGB | None]],
    corner: tuple[int, int],
    per_line: int,
    width: int,
) -> None:
    """Swatch and name of each entry, in columns; an entry without a color gets an empty swatch."""
    step = (width - 2 * _MARGIN) / per_line
    for number, (name, color) in enumerate(entries):
        left, top = corner[0] + number % per_line * step, corner[1] + number // per_line * _LINE
        draw.rounded_rectangle((left, top, left + _SWATCH, top + _SWATCH), 4, color, _OUTLINE)
        text = _shortened(name, _TEXT, step - _SWATCH - _GAP)
        draw.text((left + _SWATCH + _GAP / 2, top + _SWATCH / 2), text, _INK, _font(_TEXT), anchor="lm")


def _shortened(text: str, size: int, width: float) -> str:
    """`text`, without its middle where it is too wide: names differ at their ends."""
    font, kept = _font(size), len(text)
    shown = text
    while font.getlength(shown) > width and kept > 1:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}\u2026{text[len(text) - kept // 2 :]}"
    return shown


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path  # brings the one font that is sure to be there; slow to import

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
