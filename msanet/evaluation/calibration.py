"""Calibration, whether confidence equals accuracy: expected calibration error and reliability (Guo et al. 2017).

Confidence, the largest probability of a pixel, is rounded to 1/65,536, so that sums are integers and any number of ranks
gives the same; that changes a mean confidence by less than 0.00001.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from msanet.datasets import IGNORE_INDEX
from msanet.errors import UserError

NUM_BINS = 15
LEVELS = 2**16
"""Steps of confidence between 0 and 1."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Pixels whose confidence is above `low` and at most `high` (the first bin holds 0 too).

    confidence: their mean; accuracy: the share that is right; both NaN where there are no pixels.
    """

    low: float
    high: float
    pixels: int
    confidence: float
    accuracy: float


class Calibration:
    """Counts labeled pixels by confidence. histogram_2L: int64 (wrong, right) x (LEVELS + 1), which may be all-reduced."""

    def __init__(self, device: torch.device | str = "cpu", ignored: int = IGNORE_INDEX) -> None:
        self.ignored = ignored
        self.histogram_2L = torch.zeros(2, LEVELS + 1, dtype=torch.int64, device=device)

    def update(self, confidence_HW: Tensor, prediction_HW: Tensor, ground_truth_HW: Tensor) -> None:
        """Count one image. confidence: float, 0..1; the others integers; pixels whose ground truth is `ignored` do not count.

        All on one device, of any shape. Raises UserError where a confidence is NaN.
        """
        assert confidence_HW.shape == prediction_HW.shape == ground_truth_HW.shape, f"{confidence_HW.shape}"
        if confidence_HW.isnan().any():
            raise UserError(
                "MSA-EVAL-001",
                "a confidence is NaN, expected 0 to 1; the network has diverged, use an earlier checkpoint",
            )
        level = (confidence_HW.float().clamp(0, 1) * LEVELS).round().int()
        state = torch.where(ground_truth_HW == self.ignored, 2, (prediction_HW == ground_truth_HW).int())
        counts = torch.bincount((state * (LEVELS + 1) + level).flatten(), minlength=3 * (LEVELS + 1))
        self.histogram_2L += counts.reshape(3, -1)[:2]

    def bins(self, num_bins: int = NUM_BINS) -> tuple[ReliabilityBin, ...]:
        """The rows of a reliability diagram, `num_bins` of equal width."""
        level = torch.arange(LEVELS + 1)
        place = ((level * num_bins - 1) // LEVELS).clamp(min=0)  # integers: no edge is a matter of rounding
        wrong, right = self.histogram_2L.cpu()
        pixels, correct, confidence = (
            torch.zeros(num_bins, dtype=torch.int64).index_add_(0, place, counts).tolist()
            for counts in (wrong + right, right, (wrong + right) * level)
        )
        return tuple(
            ReliabilityBin(
                i / num_bins,
                (i + 1) / num_bins,
                n,
                confidence[i] / LEVELS / n if n else float("nan"),
                correct[i] / n if n else float("nan"),
            )
            for i, n in enumerate(pixels)
        )


def expected_calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Mean distance of accuracy and confidence over bins, weighted by pixels (equation 3); NaN without pixels."""
    total = sum(row.pixels for row in bins)
    gaps = sum(row.pixels * abs(row.accuracy - row.confidence) for row in bins if row.pixels)
    return gaps / total if total else float("nan")
