"""What an evaluation, or a training, takes of a machine."""

import resource
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Cost:
    """seconds: of the slowest rank, reading and counting included. peak_memory: see `peak_memory`, the largest rank's."""

    seconds: float
    peak_memory: int


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held since it began: on a GPU what PyTorch had allocated, else of main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # there bytes, on Linux kibibytes
