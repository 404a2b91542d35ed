"""The distributed evaluator: every image exactly once on any number of ranks, one matrix, and proof of both."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from msanet import distributed
from msanet.config import EvaluationConfig
from msanet.data.loader import evaluation_loader
from msanet.data.order import evaluation_slice
from msanet.data.source import ShardSource
from msanet.data.stages import EvaluationSample
from msanet.errors import UserError
from msanet.evaluation.confusion import confusion_matrix
from msanet.evaluation.inference import predict_labels
from msanet.evaluation.metrics import constant_baseline, scores
from msanet.files import write_text


@dataclass(frozen=True)
class Panel:
    """What the report shows of one image, uint8: image_HWC, ground_truth_HW and prediction_HW as train ids."""

    number: int
    key: str
    image_HWC: np.ndarray
    ground_truth_HW: np.ndarray
    prediction_HW: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one split, the same on every rank; panels only on rank 0.

    matrix_KK: int64 counts over all images. times_seen: how often each sample of the split was counted.
    """

    split: str
    classes: tuple[str, ...]
    matrix_KK: np.ndarray
    times_seen: np.ndarray
    world_size: int
    panels: tuple[Panel, ...] = ()

    @property
    def num_missing(self) -> int:
        return int((self.times_seen == 0).sum())

    @property
    def num_duplicate(self) -> int:
        """Counts beyond the first, over all images."""
        return int(np.maximum(self.times_seen - 1, 0).sum())

    @property
    def is_whole(self) -> bool:
        return not self.num_missing and not self.num_duplicate

    def summary(self) -> dict[str, float]:
        """The figures that go into metrics.jsonl."""
        result = scores(self.matrix_KK, self.classes)
        names = ("mean_iou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou")
        return {f"{self.split}/{name}": getattr(result, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluation-<split>.json`; undefined figures are null."""
        result = scores(self.matrix_KK, self.classes)
        name, baseline = constant_baseline(self.matrix_KK, self.classes)
        per_class = zip(self.classes, result.iou_K, result.accuracy_K, result.support_K, strict=True)
        return {
            "split": self.split,
            "protocol": "plain",
            "mean_iou": _number(result.mean_iou),
            "mean_accuracy": _number(result.mean_accuracy),
            "pixel_accuracy": _number(result.pixel_accuracy),
            "frequency_weighted_iou": _number(result.frequency_weighted_iou),
            "classes": {
                label: {"iou": _number(iou), "accuracy": _number(accuracy), "support": int(support)}
                for label, iou, accuracy, support in per_class
            },
            "constant_baseline": {"class": name, "mean_iou": _number(baseline)},
            "confusion_matrix": self.matrix_KK.tolist(),
            "num_images": int((self.times_seen > 0).sum()),
            "num_missing": self.num_missing,
            "num_duplicate": self.num_duplicate,
            "world_size": self.world_size,
            "notes": list(result.notes),
        }


def evaluate(
    model: nn.Module,
    source: ShardSource,
    settings: EvaluationConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    lockstep: bool = False,
) -> Evaluation:
    """Put every image of the split through the network once and count. A collective: every rank calls it.

    lockstep: all ranks run the same number of forwards (ZeRO-3 runs collectives inside them); ranks that have no image
    left repeat a dummy that is not counted.
    """
    rank, world_size, device = distributed.rank(), distributed.world_size(), distributed.device()
    classes = source.manifest.classes
    matrix = torch.zeros(len(classes), len(classes), dtype=torch.int64, device=device)
    times_seen = torch.zeros(len(source), dtype=torch.int64, device=device)
    wanted = _panel_numbers(len(source), settings.panels)
    panels: list[Panel] = []
    was_training = model.training
    model.eval()
    mine = evaluation_slice(len(source), rank, world_size)
    samples = evaluation_loader(source, rank, world_size, settings.workers if mine else 0)
    bar = tqdm(
        samples, f"evaluate {source.split}", len(mine), unit="image", leave=False, disable=not distributed.is_main()
    )
    for sample in bar:
        prediction = predict_labels(model, sample.image_HWC.to(device), mean, std, settings.resize, settings.precision)
        matrix += confusion_matrix(sample.label_HW.to(device), prediction, len(classes))
        times_seen[sample.number] += 1
        if sample.number in wanted:
            panels.append(_panel(sample, prediction))
    if lockstep:
        dummy = torch.zeros(64, 64, 3, dtype=torch.uint8, device=device)
        longest = max(len(evaluation_slice(len(source), r, world_size)) for r in range(world_size))
        for _ in range(longest - len(mine)):
            predict_labels(model, dummy, mean, std, settings.resize, settings.precision)
    model.train(was_training)
    distributed.all_reduce_sum(matrix)
    distributed.all_reduce_sum(times_seen)
    shown = sorted(
        (panel for part in distributed.gather_objects(panels) for panel in part), key=lambda panel: panel.number
    )
    return Evaluation(
        source.split,
        classes,
        matrix.cpu().numpy(),
        times_seen.cpu().numpy(),
        world_size,
        tuple(shown) if distributed.is_main() else (),
    )


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write `evaluation-<split>.json` whole or not at all."""
    write_text(path, json.dumps(evaluation.to_json(), indent=1, allow_nan=False) + "\n")


def require_whole(evaluation: Evaluation, source: ShardSource) -> None:
    """Raise UserError, naming images, if any was missed or counted twice: such a figure must not be published."""
    if evaluation.is_whole:
        return
    wrong = np.flatnonzero(evaluation.times_seen != 1)
    names = ", ".join(source.key(int(number)) for number in wrong[:3])
    raise UserError(
        f"{evaluation.num_missing} images of split '{evaluation.split}' were missed and {evaluation.num_duplicate} counted "
        f"more than once ({names}, ...), expected each of {len(source)} exactly once; do not use these figures"
    )


def _panel(sample: EvaluationSample, prediction_HW: torch.Tensor) -> Panel:
    return Panel(
        sample.number, sample.key, sample.image_HWC.numpy(), sample.label_HW.numpy(), prediction_HW.cpu().numpy()
    )


def _panel_numbers(num_samples: int, count: int) -> set[int]:
    """Evenly spread over the split, and the same on any number of ranks."""
    return (
        set(np.linspace(0, num_samples - 1, min(count, num_samples)).round().astype(int).tolist())
        if num_samples
        else set()
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
