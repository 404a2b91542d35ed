"""The report of a run folder: its files, and the images of an evaluation, as one HTML page."""

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msanet import versions
from msanet.evaluation import result
from msanet.evaluation.confusion import confusion_matrix_with_void
from msanet.evaluation.metrics import scores
from msanet.evaluation.protocols import NAMED
from msanet.inference.panel_attention import PanelMaps
from msanet.report.html_report import Panel, ReportData, write_report
from msanet.report.panels import COLUMNS, comparison_images
from msanet.report.tables import most_frequent
from msanet.run_layout import RunLayout
from msanet.secrets import masked, without_secrets


def write_run_report(
    folder: Path,
    palette: Sequence[tuple[int, int, int]],
    evaluation: result.EvaluationResult,
    command: str | None = None,
    run: Path | None = None,
) -> Path:
    """Write FOLDER/report.html from a run's files and this evaluation, without secrets; see `without_secrets`.

    command: this process's unless given. run: the folder of the run, if it is not `folder`.
    """
    run = run or folder
    layout, path = RunLayout(run), RunLayout(folder).report
    report = ReportData(
        title=f"{run.resolve().name}: {evaluation.split}",
        config_yaml=without_secrets(_text(layout.config)),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        classes=evaluation.classes,
        palette=palette,
        commands=_commands(run, command or command_line()),
        metrics=read_lines(layout.metrics),
        evaluation=evaluation.to_json() | {"cost": vars(evaluation.cost) if evaluation.cost else None},
        panels=[_panel(shown, palette, evaluation.classes) for shown in evaluation.shown_images],
        environment=environment(),
    )
    write_report(path, report)
    return path


def command_line() -> str:
    """How this process was called, without secrets and what the `deepspeed` launcher adds for each rank."""
    return shlex.join(masked(word) for word in sys.argv if not word.startswith("--local_rank"))


def score_table(evaluation: result.EvaluationResult) -> str:
    """The scores for a terminal: per class, then the means and those of the best constant prediction."""
    metrics = evaluation.to_json()
    lines = [f"{'class':<20} {'IoU':>7} {'accuracy':>9} {'pixels':>14}"]
    shown = most_frequent(metrics["classes"])
    for name, row in shown.items():
        lines.append(f"{name:<20} {_percent(row['iou']):>7} {_percent(row['accuracy']):>9} {row['support']:>14,}")
    if len(shown) < len(metrics["classes"]):
        lines.append(
            f"{len(metrics['classes']) - len(shown)} more classes have fewer pixels; evaluation-*.json has them all"
        )
    baseline, bounds = metrics["constant_baseline"], metrics.get("mean_iou_interval")
    interval = f"95 % interval {_percent(bounds[0])} to {_percent(bounds[1])}; " if bounds else ""
    lines += [
        f"pixel accuracy {_percent(metrics['pixel_accuracy'])}, mean accuracy {_percent(metrics['mean_accuracy'])}, "
        f"frequency-weighted IoU {_percent(metrics['frequency_weighted_iou'])}",
        f"mIoU {_percent(metrics['mean_iou'])} ({interval}all pixels '{baseline['class']}': {_percent(baseline['mean_iou'])})",
        *(f"{what} {_percent(metrics[kind]['mean'])}" for kind, what in NAMED.items() if kind in metrics),
        *(f"mIoU of '{name}' {_percent(value)}" for name, value in evaluation.mean_iou_by_dataset.items()),
        f"{metrics['num_images']} of {len(evaluation.times_seen)} images of '{evaluation.split}' on {evaluation.world_size} "
        f"ranks, {evaluation.num_missing} missing, {evaluation.num_duplicate} counted twice",
        *metrics["notes"],
    ]
    return "\n".join(lines)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, if it exists, up to the first incomplete line, which a kill can leave."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def environment() -> dict[str, str]:
    """Machine and versions, without host names or users: reports are passed on."""
    cpu = f"CPU, {torch.get_num_threads()} threads a rank"
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **versions("msanet", "torch", "deepspeed", "webdataset", "numpy"),
    }


def _panel(shown: result.EvaluatedImage, palette: Sequence[tuple[int, int, int]], classes: tuple[str, ...]) -> Panel:
    matrix = confusion_matrix_with_void(
        torch.from_numpy(shown.ground_truth_HW), torch.from_numpy(shown.prediction_HW), len(classes)
    ).numpy()
    image_HWC = np.zeros((*shown.ground_truth_HW.shape, 3), np.uint8) if shown.image_HWC is None else shown.image_HWC
    drawn = comparison_images(image_HWC, shown.ground_truth_HW, shown.prediction_HW, palette)
    if shown.image_HWC is None:
        del drawn[COLUMNS[0]]
    maps = shown.maps or PanelMaps()
    is_labeled_K = matrix.sum(axis=1) > 0  # over these, as the worst images are found
    iou_K = scores(matrix, classes).iou_K[is_labeled_K]
    iou = float(iou_K.mean()) if len(iou_K) else None
    return Panel(shown.key, drawn, iou, shown.is_worst, attention=maps.attention, scales=maps.scales)


def _commands(run: Path, own: str) -> dict[str, str]:
    """What made the run, one line per start, and what made this evaluation, unless that was the training itself."""
    made = without_secrets(_text(RunLayout(run).command)).rstrip()
    own = without_secrets(own)
    commands = {"training": made} if made else {}
    return commands if own in made.splitlines() else {**commands, "evaluation" if made else "this report": own}


def _text(path: Path) -> str:
    """A file's text, empty if it is not there."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
