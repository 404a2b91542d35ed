"""Uncertainty of metrics over few images: bootstrap intervals, two runs on the same images, and the worst images.

Images are resampled with replacement (Efron 1979; Efron and Tibshirani 1993, chapters 13 and 16) and each metric is computed
from the sum of their counts; the interval is percentiles 2.5 to 97.5. docs/evaluation.md says what it does not cover. A
resample may lack a rare class, which its mean then excludes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from msanet.errors import UserError
from msanet.evaluation.metrics import ratio
from msanet.evaluation.per_image_counts import ClassCounts, PerImageCounts

RESAMPLES = 2000
METRICS = ("mean_iou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou")
_Row = TypeVar("_Row")
_CHUNK = 2**22
"""Numbers of images drawn at once (32 MB)."""


@dataclass(frozen=True)
class Interval:
    """A metric over all images, and its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Intervals of METRICS by name, and of the IoU by class."""

    metrics: dict[str, Interval]
    iou: dict[str, Interval]


@dataclass(frozen=True)
class Difference:
    """A metric of two runs, the second minus the first, and the share of resamples in which the second is above."""

    first: float
    second: float
    difference: Interval
    share_above: float


@dataclass(frozen=True)
class Comparison:
    """Differences of METRICS by name, and of the IoU by class. notes: sentences on what was compared."""

    metrics: dict[str, Difference]
    iou: dict[str, Difference]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class WorstImage:
    """mean_iou: over the classes in its labels. cost: the rise of the mIoU over all images if all its pixels were right."""

    key: str
    mean_iou: float
    cost: float


def bootstrap(per_image: PerImageCounts, resamples: int = RESAMPLES, seed: int = 0) -> Bootstrap:
    """Intervals by resampling images; the same for the same seed. Raises UserError where there are no images."""
    counts = per_image.class_counts()
    values = _metrics(counts.sum())
    drawn = np.concatenate([_metrics(part) for (part,) in _resampled((counts,), resamples, seed)])
    intervals = [Interval(*row) for row in zip(values.tolist(), *_percentiles(drawn), strict=True)]
    return Bootstrap(*_by_name(per_image.classes, intervals))


def paired_difference(
    first: PerImageCounts, second: PerImageCounts, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """The second run minus the first, by resampling the same images for both; the same for the same seed.

    Raises UserError if the runs were not evaluated on the same labels.
    """
    pair = (first.class_counts(), _aligned(first, second))
    changed = np.flatnonzero((pair[0].support != pair[1].support).any(axis=1))
    if len(changed):
        raise UserError(
            "MSA-EVAL-014",
            f"the labels of {len(changed)} images differ between the runs ('{first.keys[changed[0]]}', ...), expected the "
            "same; evaluate both on the same shards",
        )
    a, b = (_metrics(counts.sum()) for counts in pair)
    drawn = np.concatenate([_metrics(two) - _metrics(one) for one, two in _resampled(pair, resamples, seed)])
    with np.errstate(invalid="ignore"):
        above = (drawn > 0).sum(axis=0) / np.isfinite(drawn).sum(axis=0)
    low, high = _percentiles(drawn)
    columns = (a.tolist(), b.tolist(), (b - a).tolist(), low, high, above.tolist())
    rows = [Difference(a, b, Interval(*rest), above) for a, b, *rest, above in zip(*columns, strict=True)]
    notes: tuple[str, ...] = ()
    if first.digest != second.digest:
        notes = ("The runs read two packings of the dataset (their manifests differ); the labels are the same.",)
    return Comparison(*_by_name(first.classes, rows), notes)


def worst(per_image: PerImageCounts, count: int, by: Literal["iou", "cost"] = "iou") -> list[WorstImage]:
    """The `count` worst images by their own mIoU or by their cost; those without labels are skipped."""
    counts = per_image.class_counts()
    iou = _iou(counts)
    means = _mean(np.where(counts.support > 0, iou, np.nan))
    missed, surplus = counts.support - counts.right, counts.support - counts.predicted
    perfect = ClassCounts(missed, np.zeros_like(missed), surplus)  # added to the sum
    costs = _mean(_iou(counts.sum() + perfect)) - _mean(_iou(counts.sum()))
    order = np.argsort(means if by == "iou" else -costs, kind="stable")
    labeled = [int(i) for i in order if np.isfinite(means[i])]
    return [WorstImage(per_image.keys[i], float(means[i]), float(costs[i])) for i in labeled[:count]]


def dice(counts: ClassCounts) -> np.ndarray:
    """(..., K) 2 TP / (2 TP + FP + FN), also called F1 (Dice 1945); NaN for a class neither labeled nor predicted."""
    return ratio(2 * counts.right, counts.support + counts.predicted)


def _resampled(pair: tuple[ClassCounts, ...], resamples: int, seed: int) -> Iterator[tuple[ClassCounts, ...]]:
    """Sums (R, K) over drawn images, chunk by chunk; every member of `pair` is summed over the same images."""
    num_images, num_classes = pair[0].right.shape
    if not num_images:
        raise UserError("MSA-EVAL-015", "the per-image counts contain no images, expected at least one; evaluate again")
    # Integers far below 2^53, so that float64 sums are exact in any order and BLAS may do them.
    parts = [part for counts in pair for part in (counts.right, counts.support, counts.predicted)]
    table = np.concatenate(parts, axis=1).astype(np.float64)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // num_images)
    for start in range(0, resamples, rows):
        number = min(rows, resamples - start)
        drawn = rng.integers(0, num_images, (number, num_images)) + np.arange(number)[:, None] * num_images
        times = np.bincount(drawn.ravel(), minlength=number * num_images).reshape(number, num_images)
        sums = (times.astype(np.float64) @ table).reshape(number, len(pair), 3, num_classes)
        yield tuple(ClassCounts(*np.moveaxis(sums[:, i], 1, 0)) for i in range(len(pair)))


def _metrics(counts: ClassCounts) -> np.ndarray:
    """(..., 4 + K): METRICS, then the IoU of each class, as `metrics.scores` has them."""
    iou, total = _iou(counts), counts.support.sum(axis=-1)
    metrics = (
        _mean(iou),
        _mean(ratio(counts.right, counts.support)),
        ratio(counts.right.sum(axis=-1), total),
        ratio(np.nansum(iou * counts.support, axis=-1), total),
    )
    return np.concatenate([np.stack(metrics, axis=-1), iou], axis=-1)


def _iou(counts: ClassCounts) -> np.ndarray:
    return ratio(counts.right, counts.support + counts.predicted - counts.right)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, of what is defined."""
    return ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1))


def _percentiles(drawn_RF: np.ndarray) -> tuple[list[float], list[float]]:
    """2.5 and 97.5 of each column, over the resamples in which it is defined."""
    low, high = [], []
    for column in drawn_RF.T:
        defined = column[np.isfinite(column)]
        bounds = np.percentile(defined, (2.5, 97.5)).tolist() if len(defined) else (float("nan"), float("nan"))
        low.append(bounds[0])
        high.append(bounds[1])
    return low, high


def _by_name(classes: tuple[str, ...], rows: list[_Row]) -> tuple[dict[str, _Row], dict[str, _Row]]:
    return dict(zip(METRICS, rows, strict=False)), dict(zip(classes, rows[len(METRICS) :], strict=True))


def _aligned(first: PerImageCounts, second: PerImageCounts) -> ClassCounts:
    """Counts of the second run in the first one's order of images."""
    for what in ("dataset", "split", "classes"):
        mine, theirs = getattr(first, what), getattr(second, what)
        if mine != theirs:
            raise UserError(
                "MSA-EVAL-012",
                f"{what} is {mine} in one run and {theirs} in the other, expected the same; compare runs on the same data",
            )
    place = {key: number for number, key in enumerate(second.keys)}
    if len(place) != len(second) or set(first.keys) != place.keys() or len(first) != len(second):
        lacking = next(iter(set(first.keys) ^ place.keys()), first.keys[0] if first.keys else "")
        raise UserError(
            "MSA-EVAL-013",
            f"the runs have {len(first)} and {len(second)} images and not the same ones ('{lacking}', ...); evaluate both on "
            "the same shards",
        )
    order = [place[key] for key in first.keys]
    counts = second.class_counts()
    return ClassCounts(counts.right[order], counts.support[order], counts.predicted[order])
