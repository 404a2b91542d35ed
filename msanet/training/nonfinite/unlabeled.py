"""Trainings that learn nothing: no labeled pixel counts in the loss, since all are ignored or their classes have weight 0."""

import logging
from collections.abc import Sequence

from torch import Tensor

from msanet.config import LossConfig
from msanet.errors import UserError
from msanet.losses import class_weights

logger = logging.getLogger(__name__)

_STEPS = 10
"""Steps in a row without a label that are worth a warning: a crop may miss all of them now and then."""


def require_labels(loss: LossConfig, split: str, histogram: Sequence[int]) -> None:
    """Raise UserError where a split has no pixel that could count. histogram: labeled pixels per class of the split."""
    if not sum(histogram):
        raise UserError(
            "MSA-TRAIN-402",
            f"the split '{split}' has no labeled pixel, expected some: all are ignored; check the labels with msanet inspect, "
            "and how they were packed",
            setting="data.train_split",
        )
    weights_K = class_weights(loss.class_weights, histogram)
    has_other_terms = loss.dice or loss.lovasz
    if (
        weights_K is not None
        and not has_other_terms
        and not sum(w * n for w, n in zip(weights_K, histogram, strict=True))
    ):
        raise UserError(
            "MSA-TRAIN-402",
            f"loss.class_weights is 0 for every class that occurs in the split '{split}', expected one above 0; change "
            "the weights",
            setting="loss.class_weights",
        )


class UnlabeledSteps:
    """Warns where steps in a row have no pixel that counts in the loss, on rank 0's console."""

    def __init__(self, loss: LossConfig) -> None:
        self._loss = loss
        self._in_a_row, self._steps = 0, 0

    def add(self, counts_2: Tensor) -> None:
        """A step that is over. counts_2: the loss's counts of its global batch."""
        pixels, images = counts_2.tolist()
        counts = (self._loss.cross_entropy and pixels) or ((self._loss.dice or self._loss.lovasz) and images)
        self._steps += 1
        self._in_a_row = 0 if counts else self._in_a_row + 1
        if self._in_a_row == _STEPS:
            self._warn(f"the last {_STEPS} steps")

    def check(self) -> None:
        """When metrics are logged: also warn where not one of the steps so far, fewer than _STEPS, had such a pixel."""
        if 0 < self._in_a_row == self._steps < _STEPS:
            self._warn("the steps so far")

    def _warn(self, which: str) -> None:
        logger.warning(
            f"{which} had no labeled pixel that counts in the loss (all are ignored, or their classes have weight 0): "
            "the network learns nothing from them; check the labels with msanet inspect, data.crop and loss.class_weights"
        )
