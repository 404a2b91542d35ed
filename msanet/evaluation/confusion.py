"""Counting pixels: rows ground truth, columns prediction."""

import torch
from torch import Tensor

from msanet.datasets import IGNORE_INDEX


def confusion_matrix(ground_truth: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64 counts of pixels by (ground truth, prediction); pixels whose ground truth is 255 are left out.

    ground_truth, prediction: integer tensors of one shape, train ids; predictions must lie in 0..K-1.
    """
    counted = ground_truth != IGNORE_INDEX
    pairs = ground_truth[counted].long() * num_classes + prediction[counted].long()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
