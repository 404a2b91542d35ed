"""Metrics from a confusion matrix; MSANet paper, equations 3 and 4 (with a misprinted bracket), Long et al. 2015."""

from dataclasses import dataclass

import numpy as np

_MOST_LISTED, _SHOWN_OF_MORE = 255, 20


@dataclass(frozen=True)
class Scores:
    """All fractions 0..1. Per class (by train id): iou and accuracy, NaN where undefined; support: labeled pixels.

    A class with neither ground truth nor prediction has no IoU and is excluded from the mean; a class that was
    predicted but never labeled counts as 0. `notes` names the classes that these rules apply to.
    """

    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    frequency_weighted_iou: float
    iou_K: np.ndarray
    accuracy_K: np.ndarray
    support_K: np.ndarray
    notes: tuple[str, ...]


def scores(matrix: np.ndarray, classes: tuple[str, ...]) -> Scores:
    """Scores of an integer confusion matrix (rows ground truth). All NaN where no pixel is labeled.

    matrix: (K, K), or (K, K + 1) whose last column is predicted void, which misses the class of the ground truth.
    """
    support = matrix.sum(axis=1)
    predicted = matrix.sum(axis=0)[: len(classes)]
    correct = np.diagonal(matrix)
    union = support + predicted - correct
    total = int(support.sum())
    iou, accuracy = ratio(correct, union), ratio(correct, support)
    void = int(matrix[:, len(classes) :].sum())
    void_note = [f"Predicted void on {void} labeled pixels, counted as missed."] if void else []
    return Scores(
        mean_iou=mean_of_defined(iou),
        mean_accuracy=mean_of_defined(accuracy),
        pixel_accuracy=int(correct.sum()) / total if total else float("nan"),
        frequency_weighted_iou=float(np.nansum(iou * support) / total) if total else float("nan"),
        iou_K=iou,
        accuracy_K=accuracy,
        support_K=support,
        notes=(*class_notes(classes, support, predicted), *void_note),
    )


def constant_baseline(matrix_KK: np.ndarray, classes: tuple[str, ...]) -> tuple[str, float]:
    """The best constant prediction on these labels: (class, its mean IoU). What any trained network must beat."""
    support = matrix_KK.sum(axis=1)
    best = int(support.argmax())
    constant = np.zeros_like(matrix_KK)
    constant[:, best] = support
    return classes[best], scores(constant, classes).mean_iou


def class_notes(
    classes: tuple[str, ...], support_K: np.ndarray, predicted_K: np.ndarray, absent: str = "excluded from the mean"
) -> tuple[str, ...]:
    """Sentences on classes that are not both labeled and predicted. absent: what happens to those that are neither."""
    neither = [name for name, s, p in zip(classes, support_K, predicted_K, strict=True) if not s and not p]
    invented = [name for name, s, p in zip(classes, support_K, predicted_K, strict=True) if not s and p]
    return (
        *([f"Neither labeled nor predicted, {absent}: {_listed(neither)}."] if neither else []),
        *([f"Predicted but never labeled, counted as IoU 0: {_listed(invented)}."] if invented else []),
    )


def _listed(names: list[str]) -> str:
    if len(names) <= _MOST_LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:_SHOWN_OF_MORE])} and {len(names) - _SHOWN_OF_MORE} more"


def ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Element by element, NaN where the total is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, part / total, np.nan)


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where nothing is defined."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
