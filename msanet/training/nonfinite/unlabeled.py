"""Trainings that learn nothing: no labeled pixel counts in the loss, since all are ignored or their classes have weight 0."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from msanet.config import LossConfig
from msanet.errors import UserError
from msanet.losses import class_weights

logger = logging.getLogger(__name__)

_STEPS = 10
"""Steps in a row without a label that are worth a warning: a crop may miss all of them now and then."""


def require_weighted_labels(loss: LossConfig, split: str, histogram: Sequence[int]) -> None:
    """Raise UserError if every class that occurs has the weight 0. histogram: labeled pixels per class of the split."""
    weights_K = class_weights(loss.class_weights, histogram)
    if weights_K is None or loss.has_other_terms:
        return
    if not sum(weight * count for weight, count in zip(weights_K, histogram, strict=True)):
        raise UserError(
            "MSA-TRAIN-402",
            f"loss.class_weights is 0 for every class that occurs in the split '{split}', expected one above 0; change "
            "the weights",
            setting="loss.class_weights",
        )


class UnlabeledSteps:
    """Warns where steps in a row have no pixel that counts in the loss. Counts on the device, which waits only in `check`."""

    def __init__(self, loss: LossConfig) -> None:
        self._counts_pixels, self._counts_images = loss.cross_entropy > 0, loss.has_other_terms
        self._in_a_row: Tensor | None = None
        self._steps, self._has_warned = 0, False

    def add(self, counts_3: Tensor) -> None:
        """A step. counts_3: the loss's counts of its global batch, on any device."""
        pixels, images, _ = counts_3.unbind()
        has_label = (pixels > 0) * self._counts_pixels + (images > 0) * self._counts_images
        before = torch.zeros_like(pixels) if self._in_a_row is None else self._in_a_row
        self._in_a_row = torch.where(has_label > 0, 0, before + 1)
        self._steps += 1

    def check(self) -> None:
        """When metrics are logged: warn of the last _STEPS steps, or of all so far, once until there is a label again."""
        in_a_row = 0 if self._in_a_row is None else int(self._in_a_row)
        is_long = in_a_row > 0 and in_a_row >= min(_STEPS, self._steps)
        if is_long and not self._has_warned:
            logger.warning(
                f"the last {in_a_row} steps had no labeled pixel that counts in the loss (all are ignored, or their classes have "
                "weight 0): the network learns nothing from them; check the labels with msanet inspect, data.crop and "
                "loss.class_weights"
            )
        self._has_warned = is_long
