"""Losses as sums over labelled pixels; the trainer divides by the number of labelled pixels in the global batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from msanet.datasets import IGNORE_INDEX


def cross_entropy_sum(logits_NKHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """Sum of -log softmax(logits)[label] over labelled pixels, float32 or better; 0 with zero gradients where none is labelled.

    labels_NHW: uint8 train ids, 255 ignored.
    """
    logits_NKHW = logits_NKHW.to(torch.promote_types(logits_NKHW.dtype, torch.float32))  # never sum in bf16
    return F.cross_entropy(logits_NKHW, labels_NHW.long(), ignore_index=IGNORE_INDEX, reduction="sum")


def count_labelled(labels_NHW: Tensor) -> Tensor:
    """Number of pixels that count, an int64 scalar on the labels' device."""
    return torch.count_nonzero(labels_NHW != IGNORE_INDEX)
