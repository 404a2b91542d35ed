"""The report of a run folder: what lies in it, and the panels of an evaluation, as one HTML page."""

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from msanet.evaluation import result
from msanet.evaluation.confusion import confusion_matrix
from msanet.evaluation.metrics import scores
from msanet.visual.panels import panel as draw_panel
from msanet.visual.report import Panel, ReportData, write_report

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
REPORT_FILE = "report.html"


def write_run_report(
    run: Path, palette: Sequence[tuple[int, int, int]], evaluation: result.Evaluation, command: str | None = None
) -> Path:
    """Write RUN/report.html from the run's files and this evaluation; `command` is this process's unless given."""
    config = run / CONFIG_FILE
    report = ReportData(
        title=f"{run.resolve().name}: {evaluation.split}",
        config_yaml=config.read_text(encoding="utf-8") if config.is_file() else "",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        classes=evaluation.classes,
        palette=palette,
        command=command or shlex.join(sys.argv),
        metrics=read_lines(run / METRICS_FILE),
        evaluation=evaluation.to_json(),
        panels=[_panel(shown, palette, evaluation.classes) for shown in evaluation.panels],
        environment=environment(),
    )
    write_report(run / REPORT_FILE, report)
    return run / REPORT_FILE


def score_table(evaluation: result.Evaluation) -> str:
    """The figures for a terminal: per class, then the means beside the best constant prediction."""
    figures = evaluation.to_json()
    lines = [f"{'class':<20} {'IoU':>7} {'accuracy':>9} {'pixels':>14}"]
    for name, row in figures["classes"].items():
        lines.append(f"{name:<20} {_percent(row['iou']):>7} {_percent(row['accuracy']):>9} {row['support']:>14,}")
    baseline, bounds = figures["constant_baseline"], figures.get("mean_iou_interval")
    interval = f"95 % interval {_percent(bounds[0])} to {_percent(bounds[1])}; " if bounds else ""
    lines += [
        f"pixel accuracy {_percent(figures['pixel_accuracy'])}, mean accuracy {_percent(figures['mean_accuracy'])}, "
        f"frequency-weighted IoU {_percent(figures['frequency_weighted_iou'])}",
        f"mIoU {_percent(figures['mean_iou'])} ({interval}all pixels '{baseline['class']}': {_percent(baseline['mean_iou'])})",
        f"{figures['num_images']} of {len(evaluation.times_seen)} images of '{evaluation.split}' on {evaluation.world_size} "
        f"ranks, {evaluation.num_missing} missing, {evaluation.num_duplicate} counted twice",
        *figures["notes"],
    ]
    return "\n".join(lines)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, none if it is not there; a line that a kill cut short, and the rest, is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def environment() -> dict[str, str]:
    """Machine and versions, without host names or users: reports are passed on."""
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads a rank"
    )
    names = ("msanet", "torch", "deepspeed", "webdataset", "numpy")
    return {
        "device": device,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **{name: version(name) for name in names},
    }


def _panel(shown: result.Panel, palette: Sequence[tuple[int, int, int]], classes: tuple[str, ...]) -> Panel:
    matrix = confusion_matrix(
        torch.from_numpy(shown.ground_truth_HW), torch.from_numpy(shown.prediction_HW), len(classes)
    ).numpy()
    image = draw_panel(shown.image_HWC, shown.ground_truth_HW, shown.prediction_HW, palette)
    return Panel(shown.key, image, scores(matrix, classes).mean_iou)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
