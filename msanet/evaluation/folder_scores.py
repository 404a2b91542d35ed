"""Scores of label maps that somebody else's program predicted: the counts of each, and the same result as of an evaluation.

Nothing here reads a file: `msanet score` does, in any number of processes, whose integers come together in any order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from msanet.datasets import IGNORE_INDEX
from msanet.evaluation.boundary import BoundaryCounts
from msanet.evaluation.confusion import confusion_matrix_with_void
from msanet.evaluation.instances import OTHER_VEHICLE, instance_rows, no_instances, other_vehicle_rows
from msanet.evaluation.per_image_counts import ImageCounts, PerImageCounts, collect_counts, image_counts
from msanet.evaluation.protocols import Protocol
from msanet.evaluation.result import EvaluatedImage, EvaluationResult, spread_over_split
from msanet.evaluation.statistics import worst

Show = Callable[[int, bool], EvaluatedImage]
"""(number of an image, whether it is one of the worst) -> what the report shows of it."""


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
        truth_HW: uint8 train ids; 255 is ignored.
        prediction_HW: uint8 train ids; 255 is void, a miss; OTHER_VEHICLE is void too, but not in the category iIoU.
        num_classes: Of the dataset.
        instance_ids_HW: int32, the values of an `_instanceIds.png`, if instances are counted.
        boundary: Count the boundaries too, which takes several times as long as the rest.
    """
    truth, prediction = torch.from_numpy(truth_HW), torch.from_numpy(prediction_HW)
    rows = None if instance_ids_HW is None else instance_rows(number, torch.from_numpy(instance_ids_HW), prediction)
    if (prediction_HW == OTHER_VEHICLE).any():
        if rows is not None:
            rows = np.concatenate([rows, other_vehicle_rows(number, truth_HW, prediction_HW)])
        prediction_HW = np.where(prediction_HW == OTHER_VEHICLE, np.uint8(IGNORE_INDEX), prediction_HW)
        prediction = torch.from_numpy(prediction_HW)
    matrix = confusion_matrix_with_void(truth, prediction, num_classes).numpy()
    counts = BoundaryCounts(num_classes) if boundary else None
    if counts:
        counts.update(truth_HW, prediction_HW)
    return MapCounts(image_counts(number, key, matrix), rows, counts.counts_7K if counts else None)


def collect_maps(
    maps: Sequence[MapCounts],
    dataset: str,
    digest: str,
    split: str,
    classes: tuple[str, ...],
    protocol: Protocol,
    show: Show,
    panels: int,
    num_worst: int,
) -> EvaluationResult:
    """The result of an evaluation out of the counts of all maps, in any order.

    Args:
        maps: One of each image of the split.
        dataset: Its name.
        digest: By which `compare` knows that two results are of the same files of the truth.
        split: Its name.
        classes: By train id.
        protocol: Whose rules.
        show: Reads an image again for the report.
        panels: How many images, spread over the split, the report shows.
        num_worst: How many of the worst it shows besides.
    """
    instances = None
    if all(one.instances is not None for one in maps):
        instances = np.concatenate([no_instances(), *(one.instances for one in maps if one.instances is not None)])
    counts = collect_counts(dataset, digest, split, classes, [one.image for one in maps], instances)
    boundary = BoundaryCounts(len(classes))
    for one in maps:
        boundary.counts_7K += 0 if one.boundary is None else one.boundary
    has_boundary = all(one.boundary is not None for one in maps)
    return EvaluationResult(
        counts,
        np.ones(len(counts), dtype=np.int64),
        world_size=1,
        protocol=protocol,
        boundary=boundary.scores() if has_boundary else None,
        shown_images=_shown(counts, show, panels, num_worst),
    )


def _shown(counts: PerImageCounts, show: Show, panels: int, num_worst: int) -> tuple[EvaluatedImage, ...]:
    """Those spread over the split, then the worst ones, worst first, as the evaluator chooses them."""
    spread = spread_over_split(len(counts), panels)
    place = {key: number for number, key in enumerate(counts.keys)}
    found = [place[image.key] for image in worst(counts, num_worst)]
    return (*(show(number, False) for number in sorted(spread)), *(show(number, True) for number in found))
