"""sweep.html: parallel coordinates, validation curves and a table of all trials, in one file without dependencies."""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from markupsafe import Markup

from msanet import report
from msanet.files import write_text
from msanet.report.formats import percent
from msanet.sweep.plan import SweepPlan
from msanet.sweep.settings import Axis
from msanet.sweep.space import TrialParams, display, display_short, to_yaml

_WIDTH, _HEIGHT = 1040, 320  # SVG units
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 70, 38, 34


@dataclass(frozen=True)
class Row:
    """One trial.

    Args:
        status: done, stopped, failed or unfinished.
        curve: (epoch, metric) of each validation, 0..1.
        epochs: Epochs trained.
        seconds: Time it took, if it has ended.
        error: Why it has failed.
    """

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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, short=display_short)
    style = (Path(report.__file__).parent / "report.css").read_text(encoding="utf-8")
    text = environment.get_template("page.html.j2").render(
        title=plan.name,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(style),
        metric=plan.sweep.metric,
        sweep=plan.sweep,
        keys=list(plan.file.space),
        rows=rows,
        counts={
            status: sum(row.status == status for row in rows) for status in ("done", "stopped", "failed", "unfinished")
        },
        coordinates=Markup(coordinates_svg(plan, rows)),
        curves=Markup(curves_svg(rows)),
    )
    write_text(path, text)


def coordinates_svg(plan: SweepPlan, rows: Sequence[Row]) -> str:
    """Parallel coordinates: an axis for each setting and one for the metric, and a line for each trial that was validated."""
    validated = [row for row in rows if row.best is not None]
    if not validated:
        return ""
    space = plan.file.space
    low, high = _limits([row.best or 0.0 for row in validated])
    step = (_WIDTH - _LEFT - _RIGHT) / len(space)
    parts = []
    ticks = [(fraction, percent(low + fraction * (high - low))) for fraction in (0.0, 0.5, 1.0)]
    for rank, row in reversed(list(enumerate(validated))):
        points = [
            (index, _axis_fraction(axis, row.params[key]))
            for index, (key, axis) in enumerate(space.items())
            if key in row.params
        ]
        points.append((len(space), ((row.best or 0.0) - low) / (high - low)))
        line = " ".join(f"{_LEFT + step * index:.1f},{_y(fraction):.1f}" for index, fraction in points)
        parts.append(_line(line, row, rank, len(validated)))
    parts += [_axis(_LEFT + step * index, key, _ticks(axis)) for index, (key, axis) in enumerate(space.items())]
    parts.append(_axis(_WIDTH - _RIGHT, plan.sweep.metric, ticks))
    return _svg(parts, "Parameters and result of each trial")


def curves_svg(rows: Sequence[Row]) -> str:
    """The metric of each trial by epoch."""
    from matplotlib.ticker import MaxNLocator

    validated = [row for row in rows if row.curve]
    if not validated:
        return ""
    heights = MaxNLocator(5).tick_values(*_limits([value for row in validated for _, value in row.curve]))
    low, high = heights[0], heights[-1]
    last = max(epoch for row in validated for epoch, _ in row.curve) or 1.0
    inner = _WIDTH - _LEFT - _RIGHT
    parts = []
    for value in heights:
        y = _y((value - low) / (high - low))
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent(value)}</text>')
    for epoch in MaxNLocator(10, steps=(1, 2, 5, 10)).tick_values(0.0, last):
        if epoch <= last:
            x = _LEFT + inner * epoch / last
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{epoch:g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT + 30}" y="{_HEIGHT - 12}">epoch</text>')
    for rank, row in reversed(list(enumerate(validated))):
        points = [(_LEFT + inner * epoch / last, _y((value - low) / (high - low))) for epoch, value in row.curve]
        parts.append(_line(" ".join(f"{x:.1f},{y:.1f}" for x, y in points), row, rank, len(validated), dots=points))
    return _svg(parts, "Validation by epoch")


def _svg(parts: Sequence[str], label: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _line(points: str, row: Row, rank: int, count: int, dots: Sequence[tuple[float, float]] = ()) -> str:
    """A trial's line with a tooltip; the better the trial, the stronger the color."""
    color = "var(--second)"
    if rank:
        strength = 20 + 80 * (1 - rank / count)
        color = f"color-mix(in srgb, var(--accent) {strength:.0f}%, var(--line))"
    settings = "".join(f"\n{key}: {display(text)}" for key, text in row.params.items())
    tip = html.escape(f"{row.trial} ({row.status}): {percent(row.best, 2)}{settings}")
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in dots)
    return f'<g class="trial" style="--own:{color}"><polyline points="{points}"/>{marks}<title>{tip}</title></g>'


def _axis(x: float, name: str, ticks: Sequence[tuple[float, str]]) -> str:
    marks = "".join(
        f'<text x="{x + 6:.1f}" y="{_y(fraction) + 4:.1f}" class="tick">{html.escape(text[:24])}</text>'
        for fraction, text in ticks
    )
    rule = f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
    return (
        f'{rule}{marks}<text x="{x:.1f}" y="{_TOP - 20}" text-anchor="middle" class="name">{html.escape(name)}</text>'
    )


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
    return _HEIGHT - _BOTTOM - fraction * (_HEIGHT - _TOP - _BOTTOM)
