"""Labels as tensors: uint8, or int32 of more than 255 classes, since few operations of torch take uint16."""

import numpy as np
import torch
from torch import Tensor

from msanet.datasets import label_dtype


def label_tensor_dtype(num_classes: int) -> torch.dtype:
    """uint8 or int32."""
    return torch.uint8 if label_dtype(num_classes) == np.uint8 else torch.int32


def to_label_tensor(labels: np.ndarray) -> Tensor:
    """Train ids of any shape, uint8 or uint16, as a tensor; those of 8 bits are not copied."""
    return torch.from_numpy(np.ascontiguousarray(labels) if labels.dtype == np.uint8 else labels.astype(np.int32))


def to_label_array(labels: Tensor, num_classes: int) -> np.ndarray:
    """Train ids as an array, uint8 or uint16; those of 8 bits in host memory are not copied."""
    return labels.cpu().numpy().astype(label_dtype(num_classes), copy=False)
