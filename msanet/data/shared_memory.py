"""Memory that loader processes share with their rank: /dev/shm, of which containers have 64 MB unless told otherwise."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from msanet.config import DataConfig
from msanet.datasets import label_dtype
from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.distributed.environment import local_world_size
from msanet.errors import UserError

FOLDER = "/dev/shm"
EVALUATION_PREFETCH = 2
"""Images that each loader process of an evaluation holds ready."""
_BYTES_OF_AN_INSTANCE_ID = 4  # int32
_ROUNDING_BYTES = 5 * 4096
"""Of the tensors of a batch to whole pages."""
_T = TypeVar("_T")


def label_bytes(num_classes: int) -> int:
    """Of a pixel's label in a `Batch`: uint8 or int32."""
    return 1 if label_dtype(num_classes) == np.uint8 else 4


def training_bytes(
    size: tuple[int, int],
    micro: int,
    accumulation: int,
    workers: int,
    prefetch: int,
    image: ImageFormat = RGB8,
    num_classes: int = 1,
) -> int:
    """Bytes of the micro-batches of one rank that lie there at most: those ready, and those of the step being done."""
    batch = micro * (image.pixel_bytes + label_bytes(num_classes)) * size[0] * size[1] + _ROUNDING_BYTES
    return (workers * prefetch + accumulation) * batch if workers else 0


def evaluation_bytes(
    size: tuple[int, int], workers: int, instances: bool = False, image: ImageFormat = RGB8, num_classes: int = 1
) -> int:
    """The same of an evaluation, of images of `size` with their labels."""
    pixel = image.pixel_bytes + label_bytes(num_classes) + _BYTES_OF_AN_INSTANCE_ID * instances
    return (workers * EVALUATION_PREFETCH + 1) * (pixel * size[0] * size[1] + _ROUNDING_BYTES) if workers else 0


def free_bytes(folder: str = FOLDER) -> int | None:
    """Free there; None where there is no such file system."""
    try:
        figures = os.statvfs(folder)
    except OSError:
        return None
    return figures.f_bavail * figures.f_frsize


def require_shared_memory(
    data: DataConfig, micro: int, accumulation: int, image: ImageFormat = RGB8, num_classes: int = 1
) -> None:
    """Raise UserError if this host has too little for the micro-batches of its ranks, where images are of one size."""
    size, free, ranks = data.crop or data.resize, free_bytes(), local_world_size()
    if size and free is not None:
        needed = ranks * training_bytes(
            size, micro, accumulation, data.num_workers, data.prefetch_factor, image, num_classes
        )
        if needed > free:
            raise shared_memory_full(f"the loader processes of {ranks} ranks need {_mb(needed)} of it")


def shared_memory_full(what: str) -> UserError:
    """The error where /dev/shm is too small. what: is said to need how much."""
    free = free_bytes()
    found = f"and {_mb(free)} are free" if free is not None else "which is not there"
    return UserError(
        "MSA-DATA-551",
        f"{FOLDER}, where loader processes put images, is too small: {what}, {found}; enlarge it (docker run --shm-size 8g; "
        "Kubernetes: an emptyDir of medium: Memory), or lower data.prefetch_factor, data.num_workers or evaluation.num_workers",
        setting="data.num_workers",
    )


def share(items: Iterable[_T]) -> Iterator[_T]:
    """Put the tensors of dataclasses there. DataLoader would do so in a thread, whose error nobody sees: its consumer waits."""
    for item in items:
        tensors = [value for value in vars(item).values() if isinstance(value, torch.Tensor)]
        with explain_full(sum(tensor.nbytes for tensor in tensors)):
            for tensor in tensors:
                tensor.share_memory_()
        yield item


@contextmanager
def explain_full(size: int) -> Iterator[None]:
    """Errors for lack of space as a UserError. size: bytes of what is put there."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        is_full = getattr(error, "errno", None) == errno.ENOSPC or "shared memory" in str(error)
        if not is_full:
            raise
        raise shared_memory_full(f"{_mb(size)} more did not fit") from None


def is_bus_error(error: Exception) -> bool:
    """Whether a loader process was killed because a page that it wrote could not be had."""
    return "Bus error" in str(error)


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
