"""How well boundaries match: Boundary IoU and boundary F1, from integers that may be added over images and ranks.

Boundary IoU (Cheng et al. 2021, equation 2, and the authors' boundary_iou package): the IoU of the pixels of a class within d
of its outline, inside it. d is 2 % of the image's diagonal, rounded, at least 1, in a square window; the borders of the image
and of ignored regions are outline. The prediction is ignored where the ground truth is.

Boundary F1 (Csurka et al. 2013, section 2.3): precision is the share of predicted contour pixels of a class with a contour
pixel of the ground truth nearer than 0.75 % of the diagonal (Euclidean), recall the same with the roles swapped. Contours are
pixels with one of the four neighbors labeled otherwise; the borders of the image and of ignored regions are none.

Both papers average over images or instances; here pixels are counted over all images and divided once, as for mIoU.
"""

from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

from msanet.datasets import ignore_index, label_dtype
from msanet.evaluation.metrics import mean_of_defined, ratio

IOU_WIDTH = 0.02
F1_TOLERANCE = 0.0075
_ROWS = ("both", "truth", "prediction", "truth_contour", "truth_met", "prediction_contour", "prediction_met")


@dataclass(frozen=True)
class BoundaryScores:
    """(K,) fractions 0..1, NaN where there is no boundary, and their means over the other classes.

    support: boundary pixels of the ground truth. A class with a boundary in only one of the two has IoU and F1 0.
    """

    mean_iou: float
    mean_f1: float
    iou_K: np.ndarray
    f1_K: np.ndarray
    precision_K: np.ndarray
    recall_K: np.ndarray
    support_K: np.ndarray


@dataclass
class BoundaryCounts:
    """The sums over images: counts_7K int64 can be all-reduced, and any number of ranks gives the same.

    width: of the boundary for its IoU; tolerance: of F1; both as fractions of an image's diagonal.
    """

    num_classes: int
    width: float = IOU_WIDTH
    tolerance: float = F1_TOLERANCE
    counts_7K: np.ndarray = field(init=False)
    ignored: int = field(init=False)

    def __post_init__(self) -> None:
        self.ignored = ignore_index(self.num_classes)
        self.counts_7K = np.zeros((len(_ROWS), self.num_classes), dtype=np.int64)

    def update(self, ground_truth_HW: np.ndarray, prediction_HW: np.ndarray) -> None:
        """Count one image at its labels' size. Both train ids; 255 (of more than 255 classes 65535) is ignored in one,
        predicted void in the other.
        """
        assert ground_truth_HW.shape == prediction_HW.shape, f"{ground_truth_HW.shape} and {prediction_HW.shape}"
        known = ground_truth_HW != self.ignored
        prediction_HW = np.where(known, prediction_HW, label_dtype(self.num_classes).type(self.ignored))
        self._count_areas(ground_truth_HW, prediction_HW)
        self._count_contours(ground_truth_HW, prediction_HW, known)

    def scores(self) -> BoundaryScores:
        """The scores of all that was counted."""
        both, truth, prediction, truth_contour, truth_met, prediction_contour, prediction_met = self.counts_7K
        iou = ratio(both, truth + prediction - both)
        precision, recall = ratio(prediction_met, prediction_contour), ratio(truth_met, truth_contour)
        # 2PR / (P + R) without its 0/0: one contour alone is 0, none is NaN
        p, r = np.nan_to_num(precision), np.nan_to_num(recall)
        f1 = np.where(
            truth_contour + prediction_contour > 0, 2 * p * r / np.maximum(p + r, np.finfo(float).tiny), np.nan
        )
        return BoundaryScores(mean_of_defined(iou), mean_of_defined(f1), iou, f1, precision, recall, truth)

    def _count_areas(self, truth_HW: np.ndarray, prediction_HW: np.ndarray) -> None:
        depth = max(1, round(self.width * float(np.hypot(*truth_HW.shape))))
        truth, prediction = (_near_outline(one, depth, self.ignored) for one in (truth_HW, prediction_HW))
        self._add("both", truth_HW[truth & prediction & (truth_HW == prediction_HW)])
        self._add("truth", truth_HW[truth])
        self._add("prediction", prediction_HW[prediction])

    def _count_contours(self, truth_HW: np.ndarray, prediction_HW: np.ndarray, known_HW: np.ndarray) -> None:
        reach = self.tolerance * float(np.hypot(*truth_HW.shape))
        truth, prediction = (np.flatnonzero(_contour(label, known_HW)) for label in (truth_HW, prediction_HW))
        truth_classes, prediction_classes = truth_HW.ravel()[truth], prediction_HW.ravel()[prediction]
        self._add("truth_contour", truth_classes)
        self._add("prediction_contour", prediction_classes)
        for number in np.intersect1d(truth_classes, prediction_classes):
            if number != self.ignored:
                mine, theirs = truth[truth_classes == number], prediction[prediction_classes == number]
                self.counts_7K[_ROWS.index("truth_met"), number] += _num_near(mine, theirs, reach, truth_HW.shape)
                self.counts_7K[_ROWS.index("prediction_met"), number] += _num_near(theirs, mine, reach, truth_HW.shape)

    def _add(self, row: str, classes: np.ndarray) -> None:
        counts = np.bincount(classes.ravel(), minlength=self.num_classes)
        self.counts_7K[_ROWS.index(row)] += counts[: self.num_classes]


def _near_outline(label_HW: np.ndarray, depth: int, ignored: int) -> np.ndarray:
    """(H, W) bool: whether the square of pixels up to `depth` away holds another label, for all classes at once."""
    square = np.ones((2 * depth + 1, 2 * depth + 1), dtype=np.uint8)
    label_HW = cv2.copyMakeBorder(label_HW, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=ignored)
    differs = np.asarray(cv2.erode(label_HW, square)) != np.asarray(cv2.dilate(label_HW, square))
    return differs[1:-1, 1:-1]


def _contour(label_HW: np.ndarray, known_HW: np.ndarray) -> np.ndarray:
    """(H, W) bool: whether one of the four neighbors is labeled differently; ignored pixels are not neighbors."""
    contour = np.zeros(label_HW.shape, dtype=bool)
    for axis in (0, 1):
        one, next_one = (slice(None),) * axis + (slice(1, None),), (slice(None),) * axis + (slice(-1),)
        differs = (label_HW[one] != label_HW[next_one]) & known_HW[one] & known_HW[next_one]
        contour[one] |= differs
        contour[next_one] |= differs
    return contour


def _num_near(points: np.ndarray, others: np.ndarray, reach: float, shape: tuple[int, ...]) -> int:
    """How many points have one of the others nearer than `reach` pixels (Euclidean). Both are flat places in `shape`.

    The disc around a point is a union of rectangles, which an integral image counts: exact, and faster than a distance
    transform, since contours have few points.
    """
    height, width = shape
    image = np.zeros(shape, dtype=np.uint8)
    image.ravel()[others] = 1
    below = cv2.integral(image)

    def is_met(y: np.ndarray, x: np.ndarray, rows: int, columns: int) -> np.ndarray:
        top, end = np.maximum(y - rows, 0), np.minimum(y + rows + 1, height)
        left, right = np.maximum(x - columns, 0), np.minimum(x + columns + 1, width)
        return below[end, right] - below[top, right] - below[end, left] + below[top, left] > 0

    y, x = np.divmod(points, width)
    possible = is_met(y, x, int(reach), int(reach))
    y, x = y[possible], x[possible]
    num_near = 0
    for rows, columns in _disc(reach):
        met = is_met(y, x, rows, columns)
        num_near += int(np.count_nonzero(met))
        y, x = y[~met], x[~met]
    return num_near


@cache
def _disc(reach: float) -> list[tuple[int, int]]:
    """Rectangles (half height, half width), largest first, whose union is the offsets shorter than `reach`, and offset 0."""
    tallest = {0: 0}  # by half width
    for rows in range(int(reach) + 1):
        for columns in range(int(reach) + 1):
            if rows**2 + columns**2 < reach**2:
                tallest[columns] = max(rows, tallest.get(columns, 0))
    widest = {rows: columns for columns, rows in sorted(tallest.items())}
    return sorted(widest.items(), key=lambda half: -(2 * half[0] + 1) * (2 * half[1] + 1))
