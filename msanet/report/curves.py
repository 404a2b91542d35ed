"""Training curves as inline SVG: drawn by matplotlib, then adapted to an HTML page."""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 600
MAX_HOVERS = 120
_LARGEST = 1e100  # beyond it matplotlib's tick arithmetic overflows; such values count as not plottable

WIDTH, HEIGHT = 440, 240  # points
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 10, 36  # margins in points

# matplotlib cannot write CSS variables, by which the page is light or dark: it draws in these colors, which are replaced.
_CSS_COLORS = {f"#01010{i}": f"var(--{name})" for i, name in enumerate(("muted", "line", "accent", "second"), start=1)}
_TEXT, _GRID, *_LINES = _CSS_COLORS
LINE_COLORS = tuple(_CSS_COLORS.values())[2:]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One line of a chart. steps, values: (N,) float64, finite, steps rising. num_skipped: values not plottable."""

    label: str
    steps: Floats
    values: Floats
    num_skipped: int = 0


@dataclass(frozen=True)
class Chart:
    """One set of axes. smooth: a smoothed line over a light raw one. from_zero: the y axis starts at 0."""

    key: str
    title: str
    series: tuple[Series, ...]
    smooth: bool = False
    percent: bool = False
    from_zero: bool = False
    svg: str = field(default="", repr=False)

    @property
    def num_skipped(self) -> int:
        return sum(series.num_skipped for series in self.series)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """(label, CSS color) per line; empty if the title is enough."""
        if self.smooth:
            return [("smoothed", LINE_COLORS[0])]
        if len(self.series) < 2:
            return []
        return [(series.label, color) for series, color in zip(self.series, LINE_COLORS, strict=False)]


def number(value: Any) -> float | None:
    """A finite float, or None for anything else (None, NaN, infinities, text, booleans)."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    try:
        result = float(value)
    except OverflowError:  # an integer beyond 1e308
        return None
    return result if math.isfinite(result) else None


def charts(metrics: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The charts of metrics.jsonl's lines, each with its SVG; those without a value are absent."""

    def lines(**labels: str) -> tuple[Series, ...]:
        return tuple(series(metrics, key.replace("val_", "val/"), label) for key, label in labels.items())

    scores = lines(val_mean_iou="mean IoU", val_pixel_accuracy="pixel accuracy")
    speed = lines(images_per_second="images per second")
    wanted = (
        Chart("loss", "Training loss", lines(loss="loss"), smooth=True),
        Chart("val", "Validation", scores, percent=True),
        Chart("lr", "Learning rate", lines(lr="learning rate")),
        Chart("speed", "Images per second", speed, smooth=True, from_zero=True),
    )
    filled = [chart for chart in wanted if any(line.steps.size for line in chart.series)]
    if not filled:
        return []
    steps = np.concatenate([line.steps for chart in filled for line in chart.series])
    limits = float(steps.min()), float(steps.max())
    if limits[0] == limits[1]:
        limits = limits[0] - 1.0, limits[1] + 1.0
    return [replace(chart, svg=draw(chart, limits)) for chart in filled]


def series(metrics: Sequence[Mapping[str, Any]], key: str, label: str) -> Series:
    """The values under `key` by step; of a step that was repeated after a restart the last."""
    by_step: dict[float, float] = {}
    num_skipped = 0
    for line in metrics:
        step = number(line.get("step"))
        if key not in line or step is None or abs(step) > _LARGEST:
            continue
        value = number(line[key])
        if value is None or abs(value) > _LARGEST:
            num_skipped += 1
        else:
            by_step[step] = value
    steps = np.array(sorted(by_step), dtype=np.float64)
    return Series(label, steps, np.array([by_step[step] for step in steps.tolist()], dtype=np.float64), num_skipped)


def smoothed(values: Floats) -> Floats:
    """Centered running mean, (N,) to (N,), over about a twentieth of the run; a trailing mean would lag."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index, reach = np.arange(values.size), values.size // 40
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, values.size)
    return np.asarray((sums[last] - sums[first]) / (last - first), dtype=np.float64)


def thin(values: Floats, limit: int = MAX_POINTS) -> NDArray[np.intp]:
    """Indices of at most `limit` points: the lowest and highest of each stretch, and the ends."""
    if values.size <= limit:
        return np.arange(values.size)
    stretches = np.array_split(np.arange(values.size), (limit - 2) // 2)
    extremes = [part[pick(values[part])] for part in stretches for pick in (np.argmin, np.argmax)]
    return np.unique([0, *extremes, values.size - 1])


def draw(chart: Chart, limits: tuple[float, float]) -> str:
    """One chart as an SVG element for an HTML page; limits: first and last step of the shared x axis."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    # Text stays text: a tenth of the size, in the page's font, and it can be searched.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.key, "font.size": 10.5}):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        box = (LEFT / WIDTH, BOTTOM / HEIGHT, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / HEIGHT)
        axes = figure.add_axes(box)
        for line, color in zip(chart.series, _LINES, strict=False):
            _plot(axes, line, color, chart.smooth)
        _style_axes(axes, chart.percent)
        axes.set_xlim(*limits)
        if chart.from_zero:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        figure.patch.set_visible(False)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _for_page(buffer.getvalue(), chart, limits)


def _plot(axes: Any, line: Series, color: str, smooth: bool) -> None:
    """Draw one series; few points get markers, since a single one would be invisible as a line."""
    marker = "o" if (line.steps.size <= 40 and not smooth) or line.steps.size == 1 else None
    kept = thin(line.values)
    # Not clipped, for the last point's marker.
    style = {"clip_on": False, "color": color, "solid_joinstyle": "round", "marker": marker, "markersize": 3.5}
    if not smooth:
        axes.plot(line.steps[kept], line.values[kept], linewidth=1.8, **style)
        return
    axes.plot(line.steps[kept], line.values[kept], linewidth=0.9, alpha=0.35, **style)
    mean = smoothed(line.values)
    kept = thin(mean, MAX_POINTS // 2)
    axes.plot(line.steps[kept], mean[kept], linewidth=1.9, **style)


def _style_axes(axes: Any, percent: bool) -> None:
    """Horizontal grid lines only, few ticks, short numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.patch.set_visible(False)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelcolor=_TEXT)
    axes.set_xlabel("step", color=_TEXT, labelpad=3)
    axes.margins(y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.4g}%" if percent else f"{value:.4g}"))


def _for_page(svg: str, chart: Chart, limits: tuple[float, float]) -> str:
    """Remove what only a file needs, make ids unique in the page, replace colors, add hover texts."""
    svg = svg[svg.index("<svg") :]
    for waste in (r"<metadata>.*?</metadata>", r'<style type="text/css">.*?</style>', r"<!--.*?-->"):
        svg = re.sub(waste, "", svg, flags=re.DOTALL)
    prefix = f"chart-{chart.key}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    for color, variable in _CSS_COLORS.items():
        svg = svg.replace(color, variable)
    opening = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">'
    svg = re.sub(r"^<svg[^>]*>", opening, svg)
    return re.sub(r"\s*\n\s*", "\n", svg).replace("</svg>", f"{_hovers(chart, limits)}</svg>")


def _hovers(chart: Chart, limits: tuple[float, float]) -> str:
    """Invisible strips over the plot, each with the values of its step as a tooltip."""
    lines = [dict(zip(line.steps.tolist(), line.values.tolist(), strict=True)) for line in chart.series]
    steps = np.unique(np.concatenate([line.steps for line in chart.series]))
    if steps.size > MAX_HOVERS:
        steps = steps[np.linspace(0, steps.size - 1, MAX_HOVERS).round().astype(int)]
    inner = WIDTH - LEFT - RIGHT
    centers = LEFT + inner * (steps - limits[0]) / (limits[1] - limits[0])
    edges = np.concatenate([[LEFT], (centers[1:] + centers[:-1]) / 2, [WIDTH - RIGHT]])
    strips = []
    for index, step in enumerate(steps.tolist()):
        texts = [
            f"{line.label} {values[step] * 100:.2f}%" if chart.percent else f"{line.label} {values[step]:.4g}"
            for line, values in zip(chart.series, lines, strict=True)
            if step in values
        ]
        tip = html.escape(f"step {step:,.0f}: {', '.join(texts)}")
        strips.append(
            f'<rect class="hover" x="{edges[index]:.1f}" y="{TOP}" width="{edges[index + 1] - edges[index]:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{tip}</title></rect>'
        )
    return "".join(strips)
