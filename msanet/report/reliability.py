"""The reliability diagram (Guo et al. 2017, figure 1) as inline SVG in the page's colors."""

from collections.abc import Mapping, Sequence
from typing import Any

from msanet.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, number
from msanet.report.formats import grouped, percent

_INNER, _DEPTH = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


def reliability_svg(bins: Sequence[Mapping[str, Any]]) -> str:
    """Bars of accuracy by confidence, each with a line at its mean confidence. bins: of `msanet.evaluation.calibration`."""
    parts = [_frame("How often right, by confidence")]
    for row, low, high, pixels in _rows(bins):
        accuracy, confidence = number(row.get("accuracy")), number(row.get("confidence"))
        if accuracy is None or confidence is None:
            continue
        tip = (
            f"confidence {percent(low)} to {percent(high)}: {percent(confidence)} on average, right in "
            f"{percent(accuracy)} of {grouped(pixels)} pixels"
        )
        parts.append(_bar(low, high, accuracy, tip))
        parts.append(
            f'<path d="M{_x(low) + 0.5:.1f} {_y(confidence):.1f}H{_x(high) - 0.5:.1f}" stroke="var(--second)" '
            'stroke-width="2" pointer-events="none"/>'
        )
    return "".join([*parts, "</svg>"])


def confidence_svg(bins: Sequence[Mapping[str, Any]]) -> str:
    """Share of the labeled pixels by confidence, in the same bins."""
    total = sum(pixels for *_, pixels in _rows(bins))
    parts = [_frame("Share of pixels, by confidence")]
    for _, low, high, pixels in _rows(bins):
        if pixels:
            tip = f"confidence {percent(low)} to {percent(high)}: {percent(pixels / total)} of all pixels"
            parts.append(_bar(low, high, pixels / total, tip))
    return "".join([*parts, "</svg>"])


def _rows(bins: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], float, float, float]]:
    """(row, low, high, pixels) of the rows that hold these numbers."""
    found = [(row, *(number(row.get(key)) for key in ("low", "high", "pixels"))) for row in bins]
    return [(row, low, high, pixels) for row, low, high, pixels in found if None not in (low, high, pixels)]  # type: ignore[misc]


def _x(share: float) -> float:
    return LEFT + _INNER * share


def _y(share: float) -> float:
    return TOP + _DEPTH * (1 - share)


def _frame(title: str) -> str:
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" font-size="10.5" '
        'fill="var(--muted)">'
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<path d="M{LEFT} {_y(tick):.1f}H{WIDTH - RIGHT}" stroke="var(--line)" stroke-width=".8"/>'
            f'<text x="{LEFT - 6}" y="{_y(tick):.1f}" dy=".35em" text-anchor="end">{tick:.0%}</text>'
            f'<text x="{_x(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:.0%}</text>'
        )
    parts.append(f'<text x="{_x(0.5)}" y="{HEIGHT - 5}" text-anchor="middle">confidence</text>')
    return "".join(parts)


def _bar(low: float, high: float, share: float, tip: str) -> str:
    return (
        f'<rect x="{_x(low) + 0.5:.1f}" y="{_y(share):.1f}" width="{_x(high) - _x(low) - 1:.1f}" '
        f'height="{_DEPTH * share:.1f}" fill="var(--accent)" fill-opacity=".8"><title>{tip}</title></rect>'
    )
