"""The result of an evaluation, and its two files: metrics as JSON, and every image's counts."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np

from msanet.data.mixture import Share
from msanet.data.sample_source import SampleSource
from msanet.datasets import IGNORE_INDEX, ignore_index
from msanet.errors import UserError
from msanet.evaluation.boundary import BoundaryScores
from msanet.evaluation.calibration import ReliabilityBin, expected_calibration_error
from msanet.evaluation.cost import Cost
from msanet.evaluation.metrics import constant_baseline, mean_of_defined, ratio, scores
from msanet.evaluation.per_image_counts import PerImageCounts, write_per_image_counts
from msanet.evaluation.protocols import NAMED, Protocol, ProtocolScores, compute_scores
from msanet.evaluation.statistics import METRICS, bootstrap, dice, worst
from msanet.files import write_text
from msanet.inference.panel_attention import PanelMaps
from msanet.run_layout import RunLayout

WORST_LISTED, CONFUSIONS_LISTED = 20, 100


@dataclass(frozen=True)
class EvaluatedImage:
    """One image that the report shows, uint8 RGB (None where only label maps are known), and its labels of train ids.

    is_worst: one of the worst images, not of those spread over the split, which have `maps` if the network has any.
    """

    number: int
    key: str
    image_HWC: np.ndarray | None
    ground_truth_HW: np.ndarray
    prediction_HW: np.ndarray
    is_worst: bool = False
    maps: PanelMaps | None = None


def spread_over_split(num_samples: int, count: int) -> set[int]:
    """Numbers of the images that a report shows, evenly spread over the split, the same on any number of ranks."""
    return set(np.linspace(0, max(0, num_samples - 1), min(count, num_samples)).round().astype(int).tolist())


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation of one split, the same on every rank; shown_images, for the report, only on rank 0.

    times_seen: (N,), how often each sample was counted. boundary, calibration (rows of the reliability diagram): if enabled.
    cost: not in the files, which do not depend on the machines. shares: the images of each dataset, where there are several.
    """

    per_image_counts: PerImageCounts
    times_seen: np.ndarray
    world_size: int
    protocol: Protocol = "default"
    boundary: BoundaryScores | None = None
    calibration: tuple[ReliabilityBin, ...] = ()
    shown_images: tuple[EvaluatedImage, ...] = ()
    cost: Cost | None = None
    shares: tuple[Share, ...] = ()

    @property
    def split(self) -> str:
        return self.per_image_counts.split

    @property
    def classes(self) -> tuple[str, ...]:
        return self.per_image_counts.classes

    @cached_property
    def matrix(self) -> np.ndarray:
        """(K, K + 1) int64 counts over all images, the last column predicted void."""
        return self.per_image_counts.total()

    @cached_property
    def protocol_scores(self) -> ProtocolScores:
        """The scores by `protocol`."""
        return compute_scores(self.matrix, self.classes, self.protocol, self.per_image_counts.instances)

    @cached_property
    def mean_iou_by_dataset(self) -> dict[str, float]:
        """Over the images of each of several datasets, and the classes that it has."""
        chosen_N, found = np.zeros(len(self.per_image_counts), np.int64), {}
        for share in self.shares:
            chosen_N[:] = 0
            chosen_N[share.samples.start : share.samples.stop] = 1
            iou_K = scores(self.per_image_counts.total(chosen_N), self.classes).iou_K
            found[share.name] = mean_of_defined(iou_K[list(share.classes)])
        return found

    @property
    def num_missing(self) -> int:
        return int((self.times_seen == 0).sum())

    @property
    def num_duplicate(self) -> int:
        """Counts beyond the first, over all images."""
        return int(np.maximum(self.times_seen - 1, 0).sum())

    @property
    def is_complete(self) -> bool:
        return not self.num_missing and not self.num_duplicate

    def summary(self) -> dict[str, float]:
        """The metrics that go into metrics.jsonl."""
        of_each = {f"{self.split}/{name}/mean_iou": value for name, value in self.mean_iou_by_dataset.items()}
        return {f"{self.split}/{name}": getattr(self.protocol_scores.scores, name) for name in METRICS} | of_each

    def flat_metrics(self) -> dict[str, float]:
        """Every metric but intervals as one number: means by name, those of a class as `iou/road`; NaN where undefined."""
        named = {kind: found for kind in NAMED if (found := getattr(self.protocol_scores, kind))}
        means = {name: getattr(self.protocol_scores.scores, name) for name in METRICS}
        means["mean_dice"] = mean_of_defined(self._columns["dice"])
        if self.boundary:
            means |= {"mean_boundary_iou": self.boundary.mean_iou, "mean_boundary_f1": self.boundary.mean_f1}
        if self.calibration:
            means["expected_calibration_error"] = expected_calibration_error(self.calibration)
        means |= {f"mean_{kind}": found.mean for kind, found in named.items()}
        tables = {name: dict(zip(self.classes, row.tolist(), strict=True)) for name, row in self._columns.items()}
        tables |= {kind: found.values for kind, found in named.items()}
        return means | {f"{table}/{name}": float(x) for table, row in tables.items() for name, x in row.items()}

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluation-<split>.json`; undefined values are null."""
        scores = self.protocol_scores.scores
        name, baseline = constant_baseline(self.matrix, self.classes)
        square = self.matrix[:, : len(self.classes)]
        metrics = {
            "split": self.split,
            "protocol": self.protocol,
            "mean_iou": scores.mean_iou,
            **({"mean_iou_interval": self._bootstrap[0]} if self._bootstrap else {}),
            "mean_accuracy": scores.mean_accuracy,
            "pixel_accuracy": scores.pixel_accuracy,
            "frequency_weighted_iou": scores.frequency_weighted_iou,
            "mean_dice": mean_of_defined(self._columns["dice"]),
            "classes": self._classes(),
            **{
                kind: {"mean": named.mean, "values": named.values}
                for kind in NAMED
                if (named := getattr(self.protocol_scores, kind))
            },
            "constant_baseline": {"class": name, "mean_iou": baseline},
            **({"datasets": self._datasets()} if self.shares else {}),
            "boundary": {"mean_iou": found.mean_iou, "mean_f1": found.mean_f1} if (found := self.boundary) else None,
            "calibration": self._calibration(),
            "worst_images": [vars(image) for image in worst(self.per_image_counts, WORST_LISTED)],
            **_confusions(square, self.classes),
            "predicted_void": int(self.matrix[:, len(self.classes) :].sum()),
            "num_images": int((self.times_seen > 0).sum()),
            "num_missing": self.num_missing,
            "num_duplicate": self.num_duplicate,
            "world_size": self.world_size,
            "notes": list(scores.notes),
        }
        return _without_nan(metrics)

    @cached_property
    def _bootstrap(self) -> tuple[list[float], dict[str, list[float]]] | None:
        """95 % intervals of the mIoU and of each class; None for fewer than two images."""
        if len(self.per_image_counts) < 2 or self.protocol == "official-voc":  # whose mean needs every class
            return None
        found = bootstrap(self.per_image_counts)
        mean = found.metrics["mean_iou"]
        return [mean.low, mean.high], {name: [iou.low, iou.high] for name, iou in found.iou.items()}

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """(K,) by name: what there is of each class."""
        scores, counts = self.protocol_scores.scores, self.per_image_counts.class_counts().sum()
        columns = {
            "iou": scores.iou_K,
            "accuracy": scores.accuracy_K,
            "precision": ratio(counts.right, counts.predicted),
            "dice": dice(counts),
            "support": scores.support_K,
        }
        if self.boundary:
            columns |= {"boundary_iou": self.boundary.iou_K, "boundary_f1": self.boundary.f1_K}
        return columns

    def _classes(self) -> dict[str, dict[str, Any]]:
        rows = {
            name: {column: values[i].item() for column, values in self._columns.items()}
            for i, name in enumerate(self.classes)
        }
        if self._bootstrap:
            rows = {name: {**row, "iou_interval": self._bootstrap[1][name]} for name, row in rows.items()}
        return rows

    def _datasets(self) -> dict[str, dict[str, Any]]:
        return {
            share.name: {"mean_iou": self.mean_iou_by_dataset[share.name], "num_images": len(share.samples)}
            for share in self.shares
        }

    def _calibration(self) -> dict[str, Any] | None:
        if not self.calibration:
            return None
        bins = [vars(row) for row in self.calibration]
        return {"expected_calibration_error": expected_calibration_error(self.calibration), "bins": bins}


def require_writable(folder: Path) -> None:
    """Make the folder. Raises OSError, before any work is done, if no file can be made in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix=".writable-"):
        pass


def write_evaluation(folder: Path, evaluation: EvaluationResult, measured: dict[str, Any] | None = None) -> Path:
    """Write `evaluation-<split>.npz` and then `.json`, each complete or not at all; returns the latter's path.

    measured: how, see `msanet.evaluation.measurement`; None for label maps of which that is not known.
    """
    layout = RunLayout(folder)
    write_per_image_counts(layout.per_image_counts(evaluation.split), evaluation.per_image_counts)
    path = layout.evaluation(evaluation.split)
    counts = evaluation.per_image_counts
    origin = {"dataset": counts.dataset, "dataset_digest": counts.digest, **measured} if measured else None
    content = evaluation.to_json() | ({"measured": origin} if origin else {})
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def require_complete(evaluation: EvaluationResult, source: SampleSource) -> None:
    """Raise UserError that names images if any was missed or counted twice."""
    if evaluation.is_complete:
        return
    miscounted = np.flatnonzero(evaluation.times_seen != 1)
    names = ", ".join(source.key(int(number)) for number in miscounted[:3])
    raise UserError(
        "MSA-EVAL-011",
        f"{evaluation.num_missing} images of split '{evaluation.split}' were missed and {evaluation.num_duplicate} counted "
        f"more than once ({names}, ...), expected each of {len(evaluation.times_seen)} exactly once; do not use these scores",
    )


def _confusions(square_KK: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """The matrix; of more than 255 classes, where it would have millions of numbers, the pairs with the most pixels."""
    if ignore_index(len(classes)) == IGNORE_INDEX:
        return {"confusion_matrix": square_KK.tolist()}
    wrong_KK = square_KK.copy()
    np.fill_diagonal(wrong_KK, 0)
    cells = np.flatnonzero(wrong_KK)
    most = cells[np.argsort(-wrong_KK.ravel()[cells], kind="stable")[:CONFUSIONS_LISTED]]
    rows, columns = np.unravel_index(most, wrong_KK.shape)
    return {
        "confusion_matrix": None,
        "largest_confusions": [
            {"class": classes[row], "predicted": classes[column], "pixels": int(wrong_KK[row, column])}
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ],
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
