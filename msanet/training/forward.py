"""One micro-batch through network and loss: the trainer's step, and the replay of a step that went wrong."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from msanet.config import DataConfig
from msanet.data.pipeline import Batch, network_input
from msanet.errors import UserError
from msanet.losses import SegmentationLoss
from msanet.models.network import combined_loss


def micro_batch_loss(
    network: Callable[[Tensor], Any],
    extra_weights: Sequence[float],
    loss: SegmentationLoss,
    batch: Batch,
    counts_3: Tensor,
    data: DataConfig,
) -> Tensor:
    """The share of a micro-batch in the loss of its global batch, a scalar. counts_3: the loss's counts of that batch.

    Raises UserError where a BatchNorm of the network has a single value per channel.
    """
    try:
        output = network(network_input(batch, data))
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        images, height, width = batch.labels_NHW.shape
        raise UserError(
            "MSA-TRAIN-602",
            f"a BatchNorm layer has a single value per channel in micro-batches of {images} image of {height}x{width} pixels, "
            "expected two or more to normalize; set trainer.micro_batch_size (or trainer.global_batch_size) to 2 or more, "
            "a larger data.crop, or model.norm=group where the network has it",
            setting="trainer.micro_batch_size",
        ) from error
    return combined_loss(output, extra_weights, partial(loss, labels_NHW=batch.labels_NHW, counts_3=counts_3))
