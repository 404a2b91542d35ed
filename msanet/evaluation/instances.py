"""Pixels of each Cityscapes instance that were predicted right, and their sums weighted by size (iIoU, Cordts et al. 2016).

The official script adds weighted float64 pixels instance by instance, so its last digit depends on the order of the images.
Ranks therefore exchange one row of integers for each instance, and the floats are added at the end in the order of the
split: any number of ranks gives the digits of `cityscapesscripts`.
"""

import operator
from collections.abc import Iterable
from functools import reduce

import numpy as np

from msanet.datasets import IGNORE_INDEX
from msanet.datasets.cityscapes import CATEGORIES, LABELS
from msanet.errors import UserError

AVERAGE_INSTANCE_PIXELS = {
    "bicycle": 4672.3249222261,
    "bus": 35732.1511111111,
    "car": 12794.0202738185,
    "motorcycle": 6298.7200839748,
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "train": 67583.7075812274,
    "truck": 27855.1264367816,
}
"""By class name (args.avgClassSize of cityscapesscripts)."""

_PER_LABEL = 1000
"""An instance id is its label id times this, plus a number; a label id as it is marks a group, or no instance."""
OTHER_VEHICLE = 254
"""In a prediction: caravan or trailer, which are no classes, but in the script right for the category of a vehicle."""
OTHER_VEHICLE_IDS = tuple(label.id for label in LABELS if label.has_instances and label.train_id == IGNORE_INDEX)
"""Label ids of caravan and trailer."""
_CATEGORY_IDS = [
    np.array([*CATEGORIES.get(label.category, ()), *[OTHER_VEHICLE] * (label.category == "vehicle")], dtype=np.int64)
    for label in LABELS
]
"""By label id: the train ids of the classes in its category."""


def no_instances() -> np.ndarray:
    """(0, 5) int64: the rows of a split without instances, to start from."""
    return np.zeros((0, 5), dtype=np.int64)


def instance_rows(number: int, instance_ids_HW: np.ndarray, prediction_HW: np.ndarray) -> np.ndarray:
    """One row (N, 5) int64 for each instance in one image of a class that counts.

    Columns: `number` of the image in the split, instance id, its pixels, those predicted as its class, those predicted
    as any class of its category. Rows of several images may be concatenated in any order.
    instance_ids_HW: int32, the values of an `_instanceIds.png`. prediction_HW: train ids, OTHER_VEHICLE or 255.
    Raises UserError if an id has no label, or a label without instances.
    """
    assert instance_ids_HW.shape == prediction_HW.shape, f"{instance_ids_HW.shape} and {prediction_HW.shape}"
    # NumPy selects by a mask several times as fast as PyTorch does, which also sorts to find ids.
    is_instance = instance_ids_HW > _PER_LABEL
    ids, predicted = instance_ids_HW[is_instance], prediction_HW[is_instance]
    present = np.flatnonzero(np.bincount(ids))
    place = np.zeros(present[-1] + 1 if len(present) else 0, dtype=np.int64)
    place[present] = 256 * np.arange(len(present))
    counts = np.bincount(place[ids] + predicted, minlength=256 * len(present)).reshape(-1, 256)  # by train id
    rows = [
        (number, instance, pixels.sum(), pixels[LABELS[label].train_id], pixels[_CATEGORY_IDS[label]].sum())
        for instance, label, pixels in zip(present.tolist(), _labels(present), counts, strict=True)
        if LABELS[label].train_id != IGNORE_INDEX
    ]
    return np.array(rows, dtype=np.int64) if rows else no_instances()


def other_vehicle_rows(number: int, truth_HW: np.ndarray, prediction_HW: np.ndarray) -> np.ndarray:
    """At most one row more, of the instance id 0: the pixels of other categories that were predicted as OTHER_VEHICLE.

    The script counts them against the category of vehicles, though caravan and trailer are no classes.
    truth_HW: uint8 train ids; 255 is ignored.
    """
    counts = np.bincount(truth_HW[prediction_HW == OTHER_VEHICLE], minlength=256)
    counts[[*CATEGORIES["vehicle"], IGNORE_INDEX]] = 0
    return np.array([(number, 0, counts.sum(), 0, 0)], dtype=np.int64) if counts.any() else no_instances()


def invented_vehicles(rows: np.ndarray) -> int:
    """The pixels of `other_vehicle_rows`."""
    return int(rows[rows[:, 1] == 0, 2].sum())


def are_valid(rows: np.ndarray) -> bool:
    """Whether rows (N, 5) int64 could come from `instance_rows`; for those out of a file."""
    _, instance, size, right, right_category = rows.T
    known = [label.id for label in LABELS if label.name in AVERAGE_INSTANCE_PIXELS]
    is_sized = (size > 0) & (size < 2**40) & (right >= 0) & (right <= right_category) & (right_category <= size)
    is_instance = np.isin(instance // _PER_LABEL, known) & (instance > _PER_LABEL)
    return bool(((is_instance | (instance == 0)) & is_sized).all())


def weighted_pixels(rows: np.ndarray) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """(right, missed) pixels of each class with instances, and of each category of such classes only, by name.

    An instance's pixels are weighted by the average size of its class over its own size.
    """
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    rows = rows[rows[:, 1] > 0]
    _, instance, size, right, right_category = rows.T
    label = instance // _PER_LABEL
    weight = np.array([AVERAGE_INSTANCE_PIXELS[LABELS[i].name] for i in label]) / size
    classes = {
        row.name: (_sum((right * weight)[label == row.id]), _sum(((size - right) * weight)[label == row.id]))
        for row in LABELS
        if row.name in AVERAGE_INSTANCE_PIXELS
    }
    categories = {}
    for category in dict.fromkeys(row.category for row in LABELS if row.name in classes):
        mine = np.isin(label, [row.id for row in LABELS if row.category == category])
        categories[category] = (
            _sum((right_category * weight)[mine]),
            _sum(((size - right_category) * weight)[mine]),
        )
    return classes, categories


def _labels(instances: np.ndarray) -> list[int]:
    labels: list[int] = (instances // _PER_LABEL).tolist()
    for instance, label in zip(instances.tolist(), labels, strict=True):
        is_label = label < len(LABELS)
        if not is_label or (LABELS[label].train_id != IGNORE_INDEX and not LABELS[label].has_instances):
            raise UserError(
                "MSA-EVAL-004",
                f"instance map contains the id {instance}, expected label ids of Cityscapes, or {_PER_LABEL} times one of "
                "those with instances plus a number; use the _instanceIds.png that belongs to the label",
            )
    return labels


def _sum(values: Iterable[float]) -> float:
    """From left to right, as the script adds; np.sum adds in pairs, and sum() of Python 3.12 corrects its error."""
    return reduce(operator.add, map(float, values), 0.0)
