"""A loss of one's own: a callable of logits, labels and the index of pixels without a label.

    msanet train data.path=SHARDS run.dir=RUN loss.cross_entropy=0 loss.custom=[examples/own_loss.py:poly_cross_entropy]

It returns the loss of each pixel (N, H, W), or of each image (N,), never a mean: msanet sums over labeled pixels, or images with
a label, and divides by their number in the global batch, so that the gradient does not depend on how a batch is divided among
ranks and micro-batches. Labels are int64; logits are float32, also under autocast.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def poly_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, epsilon: float = 1.0) -> Tensor:
    """PolyLoss (Leng et al. 2022, equation 6): -log p + epsilon (1 - p), of each pixel."""
    negative_log_p = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    return negative_log_p + epsilon * (1 - torch.exp(-negative_log_p))


class AreaLoss(nn.Module):
    """Of each image: how far the predicted shares of the classes are from those of the labels. A class is made once."""

    def forward(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        labeled = (labels != ignore_index)[:, None]
        truth = F.one_hot(labels.where(labels != ignore_index, 0), logits.shape[1]).permute(0, 3, 1, 2)
        difference = ((logits.softmax(dim=1) - truth) * labeled).sum(dim=(2, 3))
        return difference.abs().sum(dim=1) / labeled.sum(dim=(1, 2, 3)).clamp(min=1)
