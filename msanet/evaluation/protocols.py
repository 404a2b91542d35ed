"""Scores by the rules of the official tools, equal to theirs to the last digit.

`default`: scores() of msanet.evaluation.metrics. `official-cityscapes`: evalPixelLevelSemanticLabeling of cityscapesscripts
2.3.0. `official-voc`: VOCevalseg.m of the VOC 2012 devkit.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import numpy as np

from msanet.datasets import CITYSCAPES, VOC, DatasetSpec
from msanet.datasets.cityscapes import CATEGORIES
from msanet.errors import UserError
from msanet.evaluation.instances import invented_vehicles, weighted_pixels
from msanet.evaluation.metrics import Scores, class_notes, scores

Protocol = Literal["default", "official-cityscapes", "official-voc"]


@dataclass(frozen=True)
class NamedScores:
    """Fractions 0..1 by name, NaN where undefined, and the mean of the defined ones."""

    values: dict[str, float]
    mean: float


@dataclass(frozen=True)
class ProtocolScores:
    """The scores of one matrix by one protocol, which mean_iou, iou_K and notes follow.

    categories, class_instances (iIoU) and category_instances: of official-cityscapes; the last two if instances were counted.
    """

    protocol: Protocol
    scores: Scores
    categories: NamedScores | None = None
    class_instances: NamedScores | None = None
    category_instances: NamedScores | None = None


NAMED = {
    "categories": "IoU of categories",
    "class_instances": "iIoU of classes",
    "category_instances": "iIoU of categories",
}
"""Fields of a ProtocolScores, of official-cityscapes only -> their names in tables."""


def compute_scores(
    matrix: np.ndarray, classes: tuple[str, ...], protocol: Protocol, instances: np.ndarray | None = None
) -> ProtocolScores:
    """Scores of an integer matrix (K, K), or (K, K + 1) with predicted void as its last column; rows ground truth.

    instances: rows of `instance_rows` over all images, in any order; None where their maps are not known.

    A class that is neither labeled nor predicted has no IoU. `default` and `official-cityscapes` exclude it from the
    mean; in `official-voc` the mean is NaN too, as in MATLAB. Predicted void on a labeled pixel is a miss in the first
    two, and refused by `official-voc`, as by the devkit.

    Raises UserError where the classes are not those of the protocol's dataset.
    """
    default_scores = scores(matrix, classes)
    if protocol == "official-cityscapes":
        _expect(classes, CITYSCAPES, protocol)
        return _scores_cityscapes(matrix, default_scores, instances)
    if protocol == "official-voc":
        _expect(classes, VOC, protocol)
        return ProtocolScores(protocol, _scores_voc(matrix, default_scores))
    return ProtocolScores(protocol, default_scores)


def _scores_cityscapes(matrix: np.ndarray, default_scores: Scores, instances: np.ndarray | None) -> ProtocolScores:
    categories = {name: _iou(*_pixels(matrix, members)) for name, members in CATEGORIES.items()}
    protocol_scores = ProtocolScores(
        "official-cityscapes",
        replace(default_scores, mean_iou=_mean_of_defined(default_scores.iou_K)),
        _named(categories),
    )
    if instances is None:
        note = (
            "There is no instance-weighted IoU (iIoU) without instance maps; evaluate with "
            "evaluation.protocol=official-cityscapes, on a split that was packed with --instances."
        )
        return replace(protocol_scores, scores=replace(protocol_scores.scores, notes=(*default_scores.notes, note)))
    by_class, by_category = weighted_pixels(instances)

    also_invented = {"vehicle": invented_vehicles(instances)}

    def iiou(members: tuple[int, ...], right: float, missed: float, more: int = 0) -> float:
        return _iou(right, _pixels(matrix, members)[1] + more, missed)

    return replace(
        protocol_scores,
        class_instances=_named({name: iiou((CITYSCAPES.classes.index(name),), *by_class[name]) for name in by_class}),
        category_instances=_named(
            {name: iiou(CATEGORIES[name], *by_category[name], also_invented.get(name, 0)) for name in by_category}
        ),
    )


def _scores_voc(matrix: np.ndarray, default_scores: Scores) -> Scores:
    num_classes = len(VOC.classes)
    if matrix[:, num_classes:].any():
        raise UserError(
            "MSA-EVAL-002",
            f"prediction is void on {int(matrix[:, num_classes:].sum())} labeled pixels, expected a class of VOC everywhere; "
            "predict background there or choose another protocol",
            setting="evaluation.protocol",
        )
    total = reduce(operator.add, default_scores.iou_K.tolist(), 0.0)  # from left to right, as MATLAB adds
    absent = "so that the devkit gives no mean"
    notes = class_notes(VOC.classes, default_scores.support_K, matrix.sum(axis=0)[:num_classes], absent)
    return replace(default_scores, mean_iou=total / num_classes, notes=notes)


def _pixels(matrix: np.ndarray, members: tuple[int, ...]) -> tuple[int, int, int]:
    """Pixels of these classes as one: predicted right, predicted but of others, and missed."""
    rows = matrix[list(members)]
    right = int(rows[:, list(members)].sum())
    return right, int(matrix[:, list(members)].sum()) - right, int(rows.sum()) - right


def _iou(right: float, invented: int, missed: float) -> float:
    union = right + invented + missed  # in the script's order
    return right / union if union else float("nan")


def _named(values: dict[str, float]) -> NamedScores:
    return NamedScores(values, _mean_of_defined(values.values()))


def _mean_of_defined(values: Iterable[float]) -> float:
    """Added from left to right, as the script does; np.mean adds in another order."""
    defined = [float(value) for value in values if not np.isnan(value)]
    return reduce(operator.add, defined, 0.0) / len(defined) if defined else float("nan")


def _expect(classes: tuple[str, ...], spec: DatasetSpec, protocol: Protocol) -> None:
    if classes != spec.classes:
        raise UserError(
            "MSA-EVAL-010",
            f"protocol {protocol} has {len(classes)} classes ({', '.join(classes[:3])}, ...), expected the {spec.num_classes} of "
            f"{spec.name} ({', '.join(spec.classes[:3])}, ...); choose protocol default",
            setting="evaluation.protocol",
        )
