"""Counting pixels: rows ground truth, columns prediction."""

import torch
from torch import Tensor

from msanet.datasets import IGNORE_INDEX, ignore_index
from msanet.errors import UserError
from msanet.evaluation.label_map_counts import confusion_matrix_of_maps, of_classes


def confusion_matrix_with_void(ground_truth: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """(K, K + 1) int64 counts of pixels by (ground truth, prediction), both integer tensors of one shape.

    Pixels whose ground truth is 255 (of more than 255 classes 65535) are ignored; the last column is predicted void, of the same
    value, on a labeled pixel. Raises UserError if a ground truth is neither a class nor this value, or a prediction on a labeled
    pixel is neither.
    """
    assert ground_truth.shape == prediction.shape, f"{ground_truth.shape} and {prediction.shape}"
    if ignore_index(num_classes) != IGNORE_INDEX:
        truth_HW, prediction_HW = ground_truth.cpu().numpy(), prediction.cpu().numpy()
        return torch.from_numpy(confusion_matrix_of_maps(truth_HW, prediction_HW, num_classes)).to(ground_truth.device)
    truth, predicted = _bytes(ground_truth, "label"), _bytes(prediction, "prediction")
    if truth.device.type == "cpu" and predicted.device.type == "cpu":
        return torch.from_numpy(confusion_matrix_of_maps(truth.numpy(), predicted.numpy(), num_classes))
    # Counting pairs of bytes is faster than counting the labeled pixels only, and shows unknown values.
    pairs = truth.flatten().int().mul_(256).add_(predicted.flatten())
    counts = torch.bincount(pairs, minlength=256**2).reshape(256, 256)
    return torch.from_numpy(of_classes(counts.cpu().numpy(), num_classes)).to(truth.device)


def _bytes(values: Tensor, what: str) -> Tensor:
    if values.dtype != torch.uint8 and values.numel() and not 0 <= values.min() <= values.max() <= 255:
        raise UserError(
            "MSA-EVAL-003",
            f"{what} has values from {int(values.min())} to {int(values.max())}, expected train ids of 0 to 255; convert it",
        )
    return values.to(torch.uint8)
