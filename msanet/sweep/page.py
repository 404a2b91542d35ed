"""sweep.html: parallel coordinates, validation curves and a table of all trials, in one file without dependencies."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msanet.files import write_text
from msanet.report.formats import percent
from msanet.report.page import created, new_environment, style
from msanet.sweep.plan import SweepPlan
from msanet.sweep.settings import Axis
from msanet.sweep.space import TrialParams, display, display_short, to_yaml

STATUSES = ("done", "stopped", "failed", "unfinished")
_WIDTH, _HEIGHT = 1040, 320  # SVG units
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 70, 38, 34


@dataclass(frozen=True)
class Row:
    """One trial, with its status (one of STATUSES), the (epoch, metric) of each validation, and why it has failed."""

    trial: str
    status: str
    params: TrialParams
    curve: tuple[tuple[float, float], ...]
    epochs: float
    seconds: float | None = None
    error: str = ""

    @property
    def best(self) -> float | None:
        """The metric of its best validation; None without any."""
        return max((value for _, value in self.curve), default=None)


def write_page(path: Path, plan: SweepPlan, rows: Sequence[Row]) -> None:
    """Write the page. `rows`: the best first."""
    environment = new_environment(Path(__file__).parent, percent=percent, display=display, short=display_short)
    validated = [row for row in rows if row.best is not None]
    text = environment.get_template("page.html.j2").render(
        title=plan.name,
        created=created(),
        style=style(),
        metric=plan.sweep.metric,
        sweep=plan.sweep,
        keys=list(plan.file.space),
        rows=rows,
        counts={status: sum(row.status == status for row in rows) for status in STATUSES},
        frame={"width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": _RIGHT, "top": _TOP, "bottom": _BOTTOM},
        coordinates=_coordinates(plan, validated) if validated else None,
        curves=_curves(validated) if validated else None,
    )
    write_text(path, text)


def _coordinates(plan: SweepPlan, rows: Sequence[Row]) -> dict[str, Any]:
    """Parallel coordinates: an axis for each setting and one for the metric, and a line for each trial that was validated."""
    space = plan.file.space
    low, high = _limits([row.best or 0.0 for row in rows])
    step = (_WIDTH - _LEFT - _RIGHT) / len(space)
    located = [(round(_LEFT + step * index, 1), key, axis) for index, (key, axis) in enumerate(space.items())]
    axes = [(x, key, [(_y(fraction), text) for fraction, text in _ticks(axis)]) for x, key, axis in located]
    ticks = [(_y(fraction), percent(low + fraction * (high - low))) for fraction in (0.0, 0.5, 1.0)]
    lines = []
    for row in rows:
        points = [(x, _y(_axis_fraction(axis, row.params[key]))) for x, key, axis in located if key in row.params]
        lines.append([*points, (_WIDTH - _RIGHT, _y(((row.best or 0.0) - low) / (high - low)))])
    return {"axes": [*axes, (_WIDTH - _RIGHT, plan.sweep.metric, ticks)], "lines": _drawn(rows, lines)}


def _curves(rows: Sequence[Row]) -> dict[str, Any]:
    """The metric of each trial by epoch."""
    from matplotlib.ticker import MaxNLocator

    heights = MaxNLocator(5).tick_values(*_limits([value for row in rows for _, value in row.curve]))
    low, high = heights[0], heights[-1]
    last = max(epoch for row in rows for epoch, _ in row.curve) or 1.0

    def place(epoch: float, value: float) -> tuple[float, float]:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * epoch / last, 1), _y((value - low) / (high - low))

    epochs = [epoch for epoch in MaxNLocator(10, steps=(1, 2, 5, 10)).tick_values(0.0, last) if epoch <= last]
    return {
        "heights": [(place(0.0, value)[1], percent(value)) for value in heights],
        "epochs": [(place(epoch, low)[0], f"{epoch:g}") for epoch in epochs],
        "lines": _drawn(rows, [[place(*point) for point in row.curve] for row in rows]),
    }


def _drawn(rows: Sequence[Row], lines: Sequence[list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Lines with their colors, the best last, so that it is on top; the better a trial, the stronger its color."""
    shares = [f"{20 + 80 * (1 - rank / len(rows)):.0f}%" for rank in range(len(rows))]
    colors = ["var(--second)", *(f"color-mix(in srgb, var(--accent) {share}, var(--line))" for share in shares[1:])]
    drawn = zip(rows, lines, colors, strict=True)
    return [{"row": row, "points": points, "color": color} for row, points, color in drawn][::-1]


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """(fraction of the axis, text)."""
    if axis.range:
        return [(0.0, f"{axis.range[0]:g}"), (1.0, f"{axis.range[1]:g}")]
    return [(_axis_fraction(axis, to_yaml(value)), display(to_yaml(value))) for value in axis.options]


def _axis_fraction(axis: Axis, text: str) -> float:
    """The position of a value on its axis, 0..1."""
    if not axis.range:
        texts = [to_yaml(value) for value in axis.options]
        return (texts.index(text) + 0.5) / len(texts) if text in texts else 0.0
    low, high, value = *axis.range, float(json.loads(text))
    if axis.log_uniform:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.01, high + 0.01)


def _y(fraction: float) -> float:
    return round(_HEIGHT - _BOTTOM - fraction * (_HEIGHT - _TOP - _BOTTOM), 1)
