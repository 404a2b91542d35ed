"""The report of a run: one HTML file that needs nothing else, to read, print, mail or archive."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import jinja2
from markupsafe import Markup

from msanet.files import write_text
from msanet.visual.confusion import MAX_NUMBERED, confusion_svg
from msanet.visual.curves import charts, number
from msanet.visual.palette import RGB, UInt8, check_image
from msanet.visual.panels import COLUMNS

_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Panel:
    """One comparison panel. key: the sample's name. image: (H, W, 3) uint8 RGB of `panels.panel`. iou: 0 to 1."""

    key: str
    image: UInt8
    iou: float | None = None


@dataclass(frozen=True)
class ReportData:
    """All that a report shows; every optional piece may be missing, and non-finite numbers read as absent.

    metrics: the lines of metrics.jsonl. evaluation: the content of evaluation-val.json, where `num_images` counts
    each evaluated image once and `num_missing` those of the split that were not evaluated.
    palette, classes: one colour and one name per train id. environment: {what: version or description}.
    """

    title: str
    config_yaml: str
    created: str
    classes: Sequence[str]
    palette: Sequence[RGB]
    command: str | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] | None = None
    panels: Sequence[Panel] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tile:
    """One headline figure. alarm: the figure says that something went wrong."""

    label: str
    value: str
    detail: str = ""
    alarm: bool = False


def write_report(path: Path, report: ReportData) -> None:
    """Write `report` to `path` as one self-contained HTML file; readers see the old or the new file, never a part."""
    text = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def render(report: ReportData) -> str:
    """The report as HTML text. Raises ValueError if classes, palette and confusion matrix do not fit together."""
    if len(report.classes) != len(report.palette):
        raise ValueError(
            f"report has {len(report.classes)} classes and {len(report.palette)} colours, expected one colour per "
            "class; take both from the same dataset"
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("msanet.visual", "."),
        autoescape=True,  # for every template: the file's suffix is .j2, which select_autoescape would not know
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, grouped=grouped)
    evaluation = report.evaluation or {}
    matrix = evaluation.get("confusion_matrix")
    drawn = confusion_svg(matrix, report.classes, report.palette) if matrix is not None and len(matrix) else ""
    return environment.get_template("report.html.j2").render(
        report=report,
        evaluation=evaluation,
        facts=facts(report.metrics),
        tiles=tiles(report),
        # Markup: these two are made, and their texts escaped, by our own modules.
        charts=[(chart, Markup(chart.svg)) for chart in charts(report.metrics)],
        rows=class_rows(report),
        matrix=Markup(drawn),
        matrix_numbered=len(report.classes) <= MAX_NUMBERED,
        panels=[(panel, data_uri(panel.image)) for panel in report.panels],
        columns=COLUMNS,
        legend=[(name, css_colour(colour)) for name, colour in zip(report.classes, report.palette, strict=True)],
    )


def percent(value: Any, digits: int = 1) -> str:
    """A share from 0 to 1 as a percentage, 'n/a' where there is no finite number."""
    share = number(value)
    return "n/a" if share is None else f"{share * 100:.{digits}f}%"


def grouped(value: Any) -> str:
    """A count with thousands separators, 'n/a' where there is no finite number."""
    count = number(value)
    return "n/a" if count is None else f"{count:,.0f}"


def css_colour(colour: RGB) -> str:
    """`rgb(1,2,3)`."""
    return "rgb({:d},{:d},{:d})".format(*map(int, colour))


def tiles(report: ReportData) -> list[Tile]:
    """The headline figures: of the evaluation, or else the latest validation during training."""
    evaluation = report.evaluation
    if evaluation is None:
        found = [line for line in report.metrics if number(line.get("val/mean_iou")) is not None]
        if not found:
            return []
        detail = f"validation at step {grouped(found[-1].get('step'))}"
        return [
            Tile("Mean IoU so far", percent(found[-1]["val/mean_iou"], 2), detail),
            Tile("Pixel accuracy so far", percent(found[-1].get("val/pixel_accuracy"), 2), detail),
        ]
    result = [Tile("Mean IoU", percent(evaluation.get("mean_iou"), 2), _baseline_text(evaluation))]
    result.append(Tile("Pixel accuracy", percent(evaluation.get("pixel_accuracy"), 2), "every pixel counts alike"))
    result.append(Tile("Mean accuracy", percent(evaluation.get("mean_accuracy"), 2), "every class counts alike"))
    if number(evaluation.get("frequency_weighted_iou")) is not None:
        weighted = percent(evaluation["frequency_weighted_iou"], 2)
        result.append(Tile("Weighted IoU", weighted, "classes count by their pixels"))
    return [*result, _images_tile(evaluation)]


def _baseline_text(evaluation: Mapping[str, Any]) -> str:
    """What always answering the commonest class would score: the figure without which an mIoU says little."""
    baseline = evaluation.get("constant_baseline")
    if not baseline:
        return ""
    return f"{percent(baseline.get('mean_iou'), 2)} for always answering \u201c{baseline.get('class')}\u201d"


def _images_tile(evaluation: Mapping[str, Any]) -> Tile:
    """How complete the evaluation is; alarming unless each image counted exactly once."""
    counted, missing, twice = (number(evaluation.get(f"num_{key}")) for key in ("images", "missing", "duplicate"))
    if counted is None:
        return Tile("Images counted", "n/a")
    value = f"{counted:,.0f} of {counted + (missing or 0):,.0f}"
    detail = f"{grouped(missing)} missing, {grouped(twice)} twice"
    return Tile("Images counted", value, detail, alarm=bool(missing) or bool(twice))


def facts(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(what, figure) about the training so far, from the lines of metrics.jsonl."""
    result: list[tuple[str, str]] = []
    for key, label, digits in (("step", "steps", 0), ("epoch", "epochs", 1), ("samples", "samples", 0)):
        values = [value for line in metrics if (value := number(line.get(key))) is not None]
        if values:
            result.append((label, f"{max(values):,.{digits}f}"))
    losses = [value for line in metrics if (value := number(line.get("loss"))) is not None]
    if losses:
        result.append(("last loss", f"{losses[-1]:.4g}"))
    speeds = [value for line in metrics if (value := number(line.get("images_per_second"))) is not None]
    if speeds:
        result.append(("images per second (median)", f"{median(speeds):.4g}"))
    return result


def class_rows(report: ReportData) -> list[dict[str, Any]]:
    """One row per class of the evaluation: name, CSS colour, IoU and accuracy as text, bar length, support."""
    scores: Mapping[str, Mapping[str, Any]] = (report.evaluation or {}).get("classes") or {}
    colours = dict(zip(report.classes, map(css_colour, report.palette), strict=True))
    total = sum(number(score.get("support")) or 0.0 for score in scores.values())
    return [
        {
            "name": name,
            "colour": colours.get(name, "transparent"),
            "iou": percent(score.get("iou")),
            "bar": f"{100 * min(max(number(score.get('iou')) or 0.0, 0.0), 1.0):.1f}",
            "accuracy": percent(score.get("accuracy")),
            "support": grouped(score.get("support")),
            "share": percent((number(score.get("support")) or 0.0) / total) if total > 0 else "n/a",
        }
        for name, score in scores.items()
    ]


def data_uri(image: UInt8) -> str:
    """A picture, (H, W, 3) uint8 RGB, as a data: address, as PNG or JPEG, whichever is smaller."""
    check_image(image, image.shape[:2])
    image_bgr_HWC = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Full chroma resolution: halved, as JPEG does by default, it smears the edges between class colours.
    full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY, *full_chroma, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    jpeg = cv2.imencode(".jpg", image_bgr_HWC, options)[1].tobytes()
    png = cv2.imencode(".png", image_bgr_HWC)[1].tobytes()
    kind, content = ("png", png) if len(png) <= len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
