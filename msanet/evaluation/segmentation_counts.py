"""What scores are computed from: integers that may be added over images and ranks in any order."""

import logging

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from msanet.data.label_tensors import to_label_array
from msanet.datasets import ignore_index
from msanet.errors import UserError
from msanet.evaluation.boundary import BoundaryCounts
from msanet.evaluation.calibration import Calibration
from msanet.evaluation.confusion import confusion_matrix_with_void
from msanet.evaluation.per_image_counts import ImageCounts, require_countable

logger = logging.getLogger(__name__)


class SegmentationCounts:
    """The counts of the evaluator and of `msanet.metrics.SegmentationScores`, which therefore give the same scores.

    A plain class, so that no evaluation imports torchmetrics: that takes a second or more, and fails next to a torchvision
    that was built for another torch.

    Args:
        num_classes: K.
        boundary: Count boundary pixels too.
        calibration: Count pixels by confidence too.
        device: Of the images that will be counted.
    """

    def __init__(self, num_classes: int, boundary: bool, calibration: bool, device: torch.device | str = "cpu") -> None:
        require_countable(num_classes)
        self.matrix = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=device)
        self.boundary = BoundaryCounts(num_classes) if boundary else None
        self.calibration = Calibration(device, ignore_index(num_classes)) if calibration else None

    def update(self, label_HW: Tensor, prediction_HW: Tensor, confidence_HW: Tensor | None = None) -> Tensor:
        """Count one image and return its own matrix, int64 (K, K + 1).

        label and prediction: uint8 train ids; 255 is ignored in the first, predicted void in the second. Of more than 255
        classes: int32, 65535.
        confidence: float, 0..1, where calibration is counted. All on `device`.
        """
        matrix = confusion_matrix_with_void(label_HW, prediction_HW, len(self.matrix))
        if self.calibration:
            assert confidence_HW is not None
            self.calibration.update(confidence_HW, prediction_HW, label_HW)
        if self.boundary:
            self.boundary.update(*(to_label_array(one, len(self.matrix)) for one in (label_HW, prediction_HW)))
        self.matrix += matrix
        return matrix

    def sums(self) -> dict[str, Tensor]:
        """The int64 tensors by name, each of which may be added to that of other images; not copies."""
        sums = {"confusion_matrix": self.matrix}
        if self.boundary:
            sums["boundary_counts"] = torch.from_numpy(self.boundary.counts_7K)
        if self.calibration:
            sums["confidence_histogram"] = self.calibration.histogram_2L
        return sums

    def add(self, sums: dict[str, Tensor]) -> None:
        """Add what `sums` of the same kind gave, from any device."""
        for name, mine in self.sums().items():
            mine += sums[name].to(mine.device)


def image_cells(number: int, matrix: Tensor) -> Tensor:
    """(1 + M, 3) int64: (number, -1, 0), then (number, cell, count) of the nonzero cells, as in `ImageCounts`."""
    flat = matrix.flatten()
    cells = flat.nonzero().flatten()
    rows = torch.stack([torch.full_like(cells, number), cells, flat[cells]], dim=1)
    return torch.cat([rows.new_tensor([[number, -1, 0]]), rows])


def images_of_cells(rows: Tensor | list[Tensor]) -> list[ImageCounts]:
    """All images in the order of their rows, which is their number where one of them has none."""
    tables = [part.cpu().numpy() for part in ([rows] if isinstance(rows, Tensor) else rows)]
    table = np.concatenate([np.zeros((0, 3), dtype=np.int64), *tables])
    starts = np.flatnonzero(table[:, 1] < 0)
    parts = np.split(table, starts)[1:]
    are_numbered = bool((table[starts, 0] >= 0).all())
    numbers = table[starts, 0].tolist() if are_numbered else range(len(parts))
    return [
        ImageCounts(number, str(number), part[1:, 1].astype(np.int32), part[1:, 2].astype(np.int64))
        for number, part in zip(numbers, parts, strict=True)
    ]


def unique_images(images: list[ImageCounts], num_classes: int) -> tuple[list[ImageCounts], np.ndarray]:
    """Each image once, and how often each number was counted; names those that were counted again in a warning."""
    first: dict[int, ImageCounts] = {}
    for image in images:
        same = first.setdefault(image.number, image)
        if same is not image and (_support(same, num_classes) != _support(image, num_classes)).any():
            raise UserError(
                "MSA-EVAL-723",
                f"number {image.number} was given to two images with different labels, expected each image's own index in the "
                "dataset; give that, or reset the metric after each epoch",
                setting="numbers",
            )
    times_seen = np.bincount([image.number for image in images])
    if len(first) < len(images) and (not dist.is_initialized() or dist.get_rank() == 0):
        again = np.flatnonzero(times_seen > 1)
        logger.warning(
            f"{len(again)} images were counted more than once (numbers {', '.join(map(str, again[:5]))}, ...), as "
            "samplers that pad do; they enter the scores once, boundary and calibration as often as counted"
        )
    return list(first.values()), times_seen


def _support(image: ImageCounts, num_classes: int) -> np.ndarray:
    """(K,): labeled pixels of each class."""
    return np.bincount(image.cells // (num_classes + 1), image.counts, num_classes)
