"""What an exported network loses in mIoU against another on the same images, and how fast both are."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from msanet.config import EvaluationConfig
from msanet.data.sample_source import SampleSource
from msanet.evaluation.evaluator import evaluate
from msanet.evaluation.result import EvaluationResult, require_complete
from msanet.evaluation.statistics import RESAMPLES, Difference, paired_difference
from msanet.models.io import ModelMetadata


@dataclass(frozen=True)
class ExportLoss:
    """Two networks on one split, the second an exported one.

    Args:
        mean_iou: Of both, and their difference with its paired interval over images.
        images_per_second: Of each network, without reading, resizing and counting.
        threads: On which it was measured.
        num_images: Of the split.
        resamples: Of the interval.
    """

    mean_iou: Difference
    images_per_second: tuple[float, float]
    threads: int
    num_images: int
    resamples: int = RESAMPLES


class _Timed(nn.Module):
    """Adds up the seconds of a network's forwards but the first, which allocates memory."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls, self.seconds, self.first = 0, 0.0, 0.0

    def forward(self, x_NCHW: Tensor) -> Tensor:
        begun = time.perf_counter()
        logits: Tensor = self.network(x_NCHW)
        taken = time.perf_counter() - begun
        self.first = self.first if self.calls else taken
        self.seconds += taken
        self.calls += 1
        return logits

    def images_per_second(self, num_images: int) -> float:
        """As if every forward had taken the time of those after the first."""
        later = (self.seconds - self.first) / (self.calls - 1) if self.calls > 1 else self.first
        return num_images / (later * self.calls)


def measure_export_loss(
    first: tuple[nn.Module, ModelMetadata],
    second: tuple[nn.Module, ModelMetadata],
    source: SampleSource,
    settings: EvaluationConfig,
) -> ExportLoss:
    """Evaluate both networks on a split, and compare them image by image.

    Args:
        first: A network on the CPU and its metadata, such as in PyTorch.
        second: The exported one; see `load_model`.
        source: The split.
        settings: How images go through the networks, in float32.
    """
    quick = {"panels": 0, "worst": 0, "boundary": False, "calibration": False, "precision": "fp32"}
    results, speeds = list[EvaluationResult](), list[float]()
    for network, metadata in (first, second):
        timed = _Timed(network)
        result = evaluate(timed, source, settings.model_copy(update=quick), metadata.mean, metadata.std)
        require_complete(result, source)
        results.append(result)
        speeds.append(timed.images_per_second(len(source)))
    comparison = paired_difference(results[0].per_image_counts, results[1].per_image_counts)
    return ExportLoss(comparison.metrics["mean_iou"], (speeds[0], speeds[1]), torch.get_num_threads(), len(source))
