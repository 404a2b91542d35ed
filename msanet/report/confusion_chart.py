"""The confusion matrix as an inline SVG heat map in the page's colors."""

import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from msanet.report.formats import css_color
from msanet.report.palette import RGB

MAX_NUMBERED = 21
"""Up to this many classes every cell shows its number."""

_SMALLEST = 0.0005  # shares below 0.05 % would be invisible; dropping them keeps 80 classes small


def confusion_svg(matrix: ArrayLike, classes: Sequence[str], palette: Sequence[RGB]) -> str:
    """A (K, K) matrix of pixel counts (rows: ground truth), each row divided by its sum, as an SVG element."""
    shares_KK, counts_K = row_shares(matrix, len(classes))
    size = len(classes)
    cell = 40 if size <= 12 else 30 if size <= MAX_NUMBERED else 20 if size <= 40 else 13
    font = 12.5 if size <= 12 else 11 if size <= 40 else 9.5
    longest = max(map(len, classes), default=0)
    margin = round(min(longest, 24) * font * 0.6) + 22
    width, height = 28 + margin + size * cell + 2, 22 + margin + size * cell + 2
    parts = [
        f'<svg class="matrix" viewBox="0 0 {width} {height}" style="--width:{width}px" font-size="{font}" role="img" '
        'aria-label="Confusion matrix">',
        f'<text class="axis" x="{28 + margin}" y="13">prediction</text>',
        f'<text class="axis" transform="translate(13 {22 + margin}) rotate(-90)" text-anchor="end">ground truth</text>',
        f'<g transform="translate({28 + margin} {22 + margin})">',
    ]
    for index, name in enumerate(classes):
        parts.append(_labels(index, name, palette[index], cell))
        parts.append(_row(index, classes, shares_KK[index], int(counts_K[index]), cell))
    return "".join([*parts, "</g></svg>"])


def row_shares(matrix: ArrayLike, num_classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """((K, K) shares whose rows sum to 1, or to 0 for a class without pixels; (K,) pixels of each row)."""
    try:
        counts_KK = np.nan_to_num(np.asarray(matrix, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"confusion matrix is not a table of numbers ({error}); evaluate again") from None
    if counts_KK.shape != (num_classes, num_classes) or (counts_KK < 0).any():
        expected = f"expected {(num_classes, num_classes)} with counts of 0 and more"
        raise ValueError(f"confusion matrix has shape {counts_KK.shape}, {expected}; evaluate again on this dataset")
    counts_K = counts_KK.sum(axis=1)
    return counts_KK / np.maximum(counts_K, 1.0)[:, None], counts_K


def _labels(index: int, name: str, color: RGB, cell: int) -> str:
    """Name and color of one class, next to its row and above its column."""
    middle = index * cell + cell / 2
    text = html.escape(name if len(name) <= 24 else name[:23] + "\u2026")
    chip = min(10, cell - 4)
    fill = css_color(color)
    return (
        f'<rect class="chip" x="{-chip - 6}" y="{middle - chip / 2}" width="{chip}" height="{chip}" fill="{fill}"/>'
        f'<text x="{-chip - 12}" y="{middle}" dy=".35em" text-anchor="end">{text}</text>'
        f'<rect class="chip" x="{middle - chip / 2}" y="{-chip - 6}" width="{chip}" height="{chip}" fill="{fill}"/>'
        f'<text transform="translate({middle} {-chip - 12}) rotate(-90)" dy=".35em">{text}</text>'
    )


def _row(index: int, classes: Sequence[str], shares_K: NDArray[np.float64], count: int, cell: int) -> str:
    """The cells of one row that are dark enough to see, and the frame behind them."""
    top, side = index * cell, cell - 1
    name = html.escape(classes[index])
    title = "" if count else f"<title>{name}: no pixels in the ground truth</title>"
    parts = [f'<rect class="row" y="{top}" width="{len(classes) * cell - 1}" height="{side}">{title}</rect>']
    for column, share in enumerate(shares_K.tolist()):
        if share < _SMALLEST:
            continue
        tip = f"{name} as {html.escape(classes[column])}: {share * 100:.1f}% of {count:,} pixels"
        parts.append(
            f'<rect class="cell" x="{column * cell}" y="{top}" width="{side}" height="{side}" '
            f'fill-opacity="{share:.3f}"><title>{tip}</title></rect>'
        )
        if len(classes) <= MAX_NUMBERED and share >= 0.005:
            tone = "strong" if share > 0.6 else "weak"
            middle = column * cell + side / 2
            parts.append(
                f'<text class="{tone}" x="{middle}" y="{top + side / 2}" dy=".35em" text-anchor="middle">'
                f"{share * 100:.0f}</text>"
            )
    return "".join(parts)
