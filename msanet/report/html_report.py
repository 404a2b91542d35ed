"""The report of a run: one self-contained HTML file, below 5 MB with the default panels of 2048x1024 pixels."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from msanet.files import write_text
from msanet.report.confusion_chart import MAX_NUMBERED, confusion_svg
from msanet.report.curves import charts
from msanet.report.embedding import data_uri
from msanet.report.formats import css_color, grouped, percent
from msanet.report.heat import heat
from msanet.report.page import new_environment, style
from msanet.report.palette import RGB, UInt8
from msanet.report.reliability import confidence_svg, reliability_svg
from msanet.report.score_tiles import facts, tiles
from msanet.report.tables import class_columns, class_means, class_rows, most_frequent, named_tables

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Panel:
    """What the report shows of one sample.

    images: {caption: (H, W, 3) uint8 RGB}, the input first. iou: its own mean IoU. attention: {module: (2, R, C, h, w) uint8},
    a linear and a logarithmic map for each of R x C queries in the centers of equal parts of the image. scales: {scale: (h, w)
    uint8}, its weight times 255.
    """

    key: str
    images: Mapping[str, UInt8]
    iou: float | None = None
    is_worst: bool = False
    attention: Mapping[str, UInt8] = field(default_factory=dict)
    scales: Mapping[str, UInt8] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportData:
    """All that a report shows, with secrets removed by the caller; non-finite numbers count as missing.

    config_yaml: the resolved configuration. classes, palette: by train id. commands: {what it made: command line}.
    metrics: the lines of metrics.jsonl. evaluation: the content of evaluation-val.json, and `cost`, its seconds and
    peak_memory in bytes. environment: {what: version or description}.
    """

    title: str
    config_yaml: str
    created: str
    classes: Sequence[str]
    palette: Sequence[RGB]
    commands: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] | None = None
    panels: Sequence[Panel] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path, report: ReportData) -> None:
    """Write `report` to `path` as one self-contained HTML file, completely or not at all."""
    text = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def render(report: ReportData) -> str:
    """The report as HTML text. Raises ValueError if classes, palette and confusion matrix do not fit together."""
    if len(report.classes) != len(report.palette):
        raise ValueError(
            f"report has {len(report.classes)} classes and {len(report.palette)} colors, expected one per class"
        )
    filters = {"percent": percent, "grouped": grouped, "data_uri": data_uri, "sprite": _sprite, "weights": _weights}
    environment = new_environment(_FOLDER, **filters)
    evaluation = report.evaluation or {}
    matrix = evaluation.get("confusion_matrix")
    shown = most_frequent({name: {} for name in report.classes} | dict(evaluation.get("classes") or {}))
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        report=report,
        evaluation=evaluation,
        facts=facts(report.evaluation, report.metrics),
        tiles=tiles(report.evaluation, report.metrics),
        # Markup: our own modules have escaped the texts in these.
        charts=[(chart, Markup(chart.svg)) for chart in charts(report.metrics)],
        columns=class_columns(evaluation),
        rows=class_rows(evaluation, report.classes, report.palette),
        means=class_means(evaluation),
        named_tables=named_tables(evaluation),
        matrix=Markup(confusion_svg(matrix, report.classes, report.palette)) if matrix else "",
        matrix_numbered=len(report.classes) <= MAX_NUMBERED,
        calibration=_calibration(evaluation),
        panels=[
            ("Spread over the split", [panel for panel in report.panels if not panel.is_worst]),
            ("Worst images", [panel for panel in report.panels if panel.is_worst]),
        ],
        legend=[
            (name, css_color(color))
            for name, color in zip(report.classes, report.palette, strict=True)
            if name in shown
        ],
        hidden_classes=max(0, len(report.classes) - len(shown)),
        style=style(),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _calibration(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """ECE as text and the two diagrams, None where nothing was counted."""
    calibration = evaluation.get("calibration") or {}
    bins = calibration.get("bins") or ()
    if not bins:
        return None
    error = percent(calibration.get("expected_calibration_error"), 2)
    return {"error": error, "reliability": Markup(reliability_svg(bins)), "confidence": Markup(confidence_svg(bins))}


def _sprite(maps_RCHW: UInt8) -> str:
    """The maps of all queries in one image, in the rows and columns of the queries, in inferno: the page adds its light."""
    rows, columns, height, width = maps_RCHW.shape
    levels_HW = np.ascontiguousarray(maps_RCHW.swapaxes(1, 2)).reshape(rows * height, columns * width)
    colored_BGR = cv2.applyColorMap(levels_HW, cv2.COLORMAP_INFERNO)
    return data_uri(np.asarray(cv2.cvtColor(colored_BGR, cv2.COLOR_BGR2RGB), np.uint8))


def _weights(weights_HW: UInt8) -> str:
    return data_uri(heat(weights_HW / 255.0))
