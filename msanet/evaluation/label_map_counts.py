"""The counts of one label map, without PyTorch, whose import would take longer than a worker of `msanet score` counts."""

from dataclasses import dataclass

import cv2
import numpy as np

from msanet.datasets import IGNORE_INDEX, ignore_index
from msanet.errors import UserError
from msanet.evaluation.boundary import BoundaryCounts
from msanet.evaluation.instances import OTHER_VEHICLE, instance_rows, other_vehicle_rows
from msanet.evaluation.per_image_counts import ImageCounts, image_counts

MOST_PIXELS = 2**24
"""OpenCV gives a histogram as float32, which is exact up to this count; larger maps are counted in parts."""


@dataclass(frozen=True)
class MapCounts:
    """What one label map gives. instances: rows of `instance_rows`; boundary: `counts_7K`; None where not counted."""

    image: ImageCounts
    instances: np.ndarray | None = None
    boundary: np.ndarray | None = None


def count_map(
    number: int,
    key: str,
    truth_HW: np.ndarray,
    prediction_HW: np.ndarray,
    num_classes: int,
    instance_ids_HW: np.ndarray | None = None,
    boundary: bool = False,
) -> MapCounts:
    """Count one label map.

    Args:
        number: Of the image in the split, from 0.
        key: Its name.
        truth_HW: uint8 train ids; 255 is ignored. Of more than 255 classes all are uint16, and 65535 is.
        prediction_HW: uint8 train ids; 255 is void, a miss; OTHER_VEHICLE is void too, but not in the category iIoU.
        num_classes: Of the dataset.
        instance_ids_HW: int32, the values of an `_instanceIds.png`, if instances are counted.
        boundary: Count the boundaries too, which takes several times as long as the rest.
    """
    rows = None if instance_ids_HW is None else instance_rows(number, instance_ids_HW, prediction_HW)
    if num_classes <= OTHER_VEHICLE and (prediction_HW == OTHER_VEHICLE).any():
        if rows is not None:
            rows = np.concatenate([rows, other_vehicle_rows(number, truth_HW, prediction_HW)])
        prediction_HW = np.where(prediction_HW == OTHER_VEHICLE, np.uint8(IGNORE_INDEX), prediction_HW)
    matrix = confusion_matrix_of_maps(truth_HW, prediction_HW, num_classes)
    counts = BoundaryCounts(num_classes) if boundary else None
    if counts:
        counts.update(truth_HW, prediction_HW)
    return MapCounts(image_counts(number, key, matrix), rows, counts.counts_7K if counts else None)


def confusion_matrix_of_maps(truth_HW: np.ndarray, prediction_HW: np.ndarray, num_classes: int) -> np.ndarray:
    """`confusion_matrix_with_void` of uint8 train ids; the histogram is three times as fast as PyTorch's bincount.

    Of more than 255 classes the train ids are integers of any type.
    """
    if ignore_index(num_classes) != IGNORE_INDEX:
        return _matrix_of_pairs(truth_HW, prediction_HW, num_classes)
    pairs_N1 = cv2.merge([prediction_HW.reshape(-1, 1), truth_HW.reshape(-1, 1)]).view(np.uint16).reshape(-1, 1)
    counts = np.zeros(256**2, dtype=np.int64)
    for start in range(0, len(pairs_N1), MOST_PIXELS):
        part = pairs_N1[start : start + MOST_PIXELS]
        counts += cv2.calcHist([part], [0], None, [256**2], [0, 256**2]).ravel().astype(np.int64)
    return of_classes(counts.reshape(256, 256), num_classes)


def _matrix_of_pairs(truth_HW: np.ndarray, prediction_HW: np.ndarray, num_classes: int) -> np.ndarray:
    ignored = ignore_index(num_classes)
    is_labeled = truth_HW != ignored
    truth, prediction = truth_HW[is_labeled].astype(np.int64), prediction_HW[is_labeled].astype(np.int64)
    for values, what in ((truth, "label"), (prediction, "prediction")):
        unknown = np.unique(values[(values < 0) | ((values >= num_classes) & (values != ignored))])
        if unknown.size:
            raise _unknown_values(unknown.tolist(), num_classes, what)
    prediction[prediction == ignored] = num_classes
    pairs = truth * (num_classes + 1) + prediction
    return np.bincount(pairs, minlength=num_classes * (num_classes + 1)).reshape(num_classes, -1)


def of_classes(counts: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, K + 1) of (256, 256) counts by the bytes of ground truth and prediction.

    Raises UserError if a labeled pixel was counted that is of no class.
    """
    counts = counts[:IGNORE_INDEX]
    matrix = np.concatenate([counts[:num_classes, :num_classes], counts[:num_classes, IGNORE_INDEX:]], axis=1)
    if matrix.sum() != counts.sum():
        _expect_known(counts.sum(axis=1), num_classes, "label")
        _expect_known(counts.sum(axis=0)[:IGNORE_INDEX], num_classes, "prediction")
    return matrix


def _expect_known(counts: np.ndarray, num_classes: int, what: str) -> None:
    unknown = (np.flatnonzero(counts[num_classes:]) + num_classes).tolist()
    if unknown:
        raise _unknown_values(unknown, num_classes, what)


def _unknown_values(unknown: list[int], num_classes: int, what: str) -> UserError:
    expected = f"expected train ids 0 to {num_classes - 1} or {ignore_index(num_classes)}"
    return UserError("MSA-EVAL-003", f"{what} contains the value(s) {unknown[:256]}, {expected}; convert it")
