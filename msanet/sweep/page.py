"""sweep.html: parallel coordinates, validation curves and a table of all trials, in one file that needs nothing else."""

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
from msanet.sweep.space import Point, short, shown, to_yaml

_WIDTH, _HEIGHT = 1040, 320  # SVG units
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 70, 38, 34


@dataclass(frozen=True)
class Row:
    """One trial. point: its settings. curve: (epoch, figure) of each validation, 0..1. epochs: how far it came."""

    trial: str
    status: str
    point: Point
    curve: tuple[tuple[float, float], ...]
    epochs: float
    seconds: float | None = None
    error: str = ""

    @property
    def best(self) -> float | None:
        """Its best validation; None without any."""
        return max((value for _, value in self.curve), default=None)


def write_page(path: Path, plan: SweepPlan, rows: Sequence[Row]) -> None:
    """Write the page. rows: the best first."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, short=short)
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
    """An upright axis for each setting and one for the figure, and a line through them for each trial that has one."""
    judged = [row for row in rows if row.best is not None]
    if not judged:
        return ""
    space = plan.file.space
    low, high = _limits([row.best or 0.0 for row in judged])
    step = (_WIDTH - _LEFT - _RIGHT) / len(space)
    parts = []
    ticks = [(share, percent(low + share * (high - low))) for share in (0.0, 0.5, 1.0)]
    for rank, row in reversed(list(enumerate(judged))):
        places = [
            (index, _place(axis, row.point[key])) for index, (key, axis) in enumerate(space.items()) if key in row.point
        ]
        places.append((len(space), ((row.best or 0.0) - low) / (high - low)))
        line = " ".join(f"{_LEFT + step * index:.1f},{_y(share):.1f}" for index, share in places)
        parts.append(_line(line, row, rank, len(judged)))
    parts += [_axis(_LEFT + step * index, key, _ticks(axis)) for index, (key, axis) in enumerate(space.items())]
    parts.append(_axis(_WIDTH - _RIGHT, plan.sweep.metric, ticks))
    return _svg(parts, "Settings and result of each trial")


def curves_svg(rows: Sequence[Row]) -> str:
    """The figure of each trial by epoch."""
    from matplotlib.ticker import MaxNLocator

    judged = [row for row in rows if row.curve]
    if not judged:
        return ""
    heights = MaxNLocator(5).tick_values(*_limits([value for row in judged for _, value in row.curve]))
    low, high = heights[0], heights[-1]
    last = max(epoch for row in judged for epoch, _ in row.curve) or 1.0
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
    for rank, row in reversed(list(enumerate(judged))):
        places = [(_LEFT + inner * epoch / last, _y((value - low) / (high - low))) for epoch, value in row.curve]
        parts.append(_line(" ".join(f"{x:.1f},{y:.1f}" for x, y in places), row, rank, len(judged), dots=places))
    return _svg(parts, "Validation by epoch")


def _svg(parts: Sequence[str], label: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _line(points: str, row: Row, rank: int, count: int, dots: Sequence[tuple[float, float]] = ()) -> str:
    """A trial's line; the better, the stronger its color. Its tooltip says what it is."""
    color = "var(--second)"
    if rank:
        strength = 20 + 80 * (1 - rank / count)
        color = f"color-mix(in srgb, var(--accent) {strength:.0f}%, var(--line))"
    settings = "".join(f"\n{key}: {shown(text)}" for key, text in row.point.items())
    tip = html.escape(f"{row.trial} ({row.status}): {percent(row.best, 2)}{settings}")
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in dots)
    return f'<g class="trial" style="--own:{color}"><polyline points="{points}"/>{marks}<title>{tip}</title></g>'


def _axis(x: float, name: str, ticks: Sequence[tuple[float, str]]) -> str:
    marks = "".join(
        f'<text x="{x + 6:.1f}" y="{_y(share) + 4:.1f}" class="tick">{html.escape(text[:24])}</text>'
        for share, text in ticks
    )
    rule = f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
    return (
        f'{rule}{marks}<text x="{x:.1f}" y="{_TOP - 20}" text-anchor="middle" class="name">{html.escape(name)}</text>'
    )


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """(share of the axis, text)."""
    if axis.range:
        return [(0.0, f"{axis.range[0]:g}"), (1.0, f"{axis.range[1]:g}")]
    return [(_place(axis, to_yaml(value)), shown(to_yaml(value))) for value in axis.options]


def _place(axis: Axis, text: str) -> float:
    """Where on its axis, 0..1, a value stands."""
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


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
