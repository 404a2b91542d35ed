"""The distributed evaluator: every image exactly once on any number of ranks. See docs/decisions/0006."""

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from msanet import distributed
from msanet.config import EvaluationConfig
from msanet.data.label_tensors import to_label_array
from msanet.data.loader import evaluation_loader
from msanet.data.mixture import shares_of
from msanet.data.pipeline import EvaluationSample
from msanet.data.sample_source import SampleSource
from msanet.data.shuffle_order import evaluation_slice
from msanet.evaluation.cost import Cost, peak_memory
from msanet.evaluation.instances import instance_rows, no_instances
from msanet.evaluation.metrics import scores
from msanet.evaluation.per_image_counts import ImageCounts, collect_counts, image_counts
from msanet.evaluation.result import EvaluatedImage, EvaluationResult, spread_over_split
from msanet.evaluation.segmentation_counts import SegmentationCounts
from msanet.inference.panel_attention import panel_maps
from msanet.inference.predictor import Predictor
from msanet.logs import track
from msanet.report.bands import picture

_STOP = 2**31
"""Sent instead of a number of forwards by a rank that was asked to stop."""


class EvaluationInterrupted(Exception):
    """A rank asked the evaluation to stop. Raised on all ranks, after the same image."""


def evaluate(
    model: nn.Module,
    source: SampleSource,
    settings: EvaluationConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    lockstep: bool = False,
    should_stop: Callable[[], bool] | None = None,
    shown_bands: Sequence[int] | None = None,
) -> EvaluationResult:
    """Put every image of the split through the network once and count. A collective: every rank calls it.

    Args:
        model: The network, in evaluation mode meanwhile.
        source: The split. Ranks need no shared disk.
        settings: How images go through the network, and what is counted.
        mean: Normalization of each band; of RGB in gray values.
        std: Likewise.
        lockstep: All ranks run the same number of forwards, with idle ones where needed: ZeRO-3 has collectives in them.
        should_stop: Called before each image.
        shown_bands: Bands that the report's pictures show; see `picture`.

    Raises:
        EvaluationInterrupted: On all ranks, if `should_stop` returns true on one.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    was_training = model.training
    model.eval()
    predictor = Predictor(model, settings, mean, std, lockstep)
    accumulator = EvaluationAccumulator(source.manifest.classes, len(source), settings, predictor.device, shown_bands)
    mine = evaluation_slice(len(source), rank, world_size)
    with_instances = settings.protocol == "official-cityscapes"
    samples = evaluation_loader(source, rank, world_size, settings.num_workers if mine else 0, with_instances)
    if lockstep or should_stop:
        samples = _synchronized(samples, predictor, -(-len(source) // world_size), should_stop)
    tracked = track(samples, f"evaluate {source.split}", len(mine), unit="image", disable=not distributed.is_main())
    try:
        for sample in tracked:
            distributed.report_progress(f"evaluating image {sample.key}")
            accumulator.add(sample, predictor)
            distributed.report_progress("waiting for the next image")
    finally:
        model.train(was_training)
    return accumulator.gather(source)


def _synchronized(
    samples: Iterator[EvaluationSample], predictor: Predictor, longest: int, should_stop: Callable[[], bool] | None
) -> Iterator[EvaluationSample]:
    """The same samples; all ranks take the next one, or stop, at the same time.

    In lockstep each rank runs as many forwards as the rank with the largest image.
    """
    for _ in range(longest):
        sample = next(samples, None)
        own = predictor.num_forwards(*sample.image_HWC.shape[:2]) if sample and predictor.lockstep else 0
        most = distributed.all_reduce_max(_STOP if should_stop and should_stop() else own)
        if most == _STOP:
            raise EvaluationInterrupted
        if sample:
            yield sample
        for _ in range(most - own):
            predictor.idle_forward()


class EvaluationAccumulator:
    """The counts of one rank, and at the end of all."""

    def __init__(
        self,
        classes: tuple[str, ...],
        num_samples: int,
        settings: EvaluationConfig,
        device: torch.device,
        shown_bands: Sequence[int] | None = None,
    ) -> None:
        self.shown_bands = shown_bands
        self.classes, self.settings, self.device = classes, settings, device
        self.started = time.perf_counter()
        self.images: list[ImageCounts] = []
        self.instances: list[np.ndarray] | None = [] if settings.protocol == "official-cityscapes" else None
        self.counts = SegmentationCounts(len(classes), settings.boundary, settings.calibration, device)
        self.spread = spread_over_split(num_samples, settings.panels)
        self.panels: list[EvaluatedImage] = []
        self.worst: list[tuple[float, int, EvaluatedImage]] = []  # a heap whose first has the highest mIoU

    def add(self, sample: EvaluationSample, predictor: Predictor) -> None:
        """Predict and count one image."""
        label_HW = sample.label_HW.to(self.device)
        confidence_HW = None
        if self.settings.calibration:
            prediction_HW, confidence_HW = predictor.labels_and_confidence(sample.image_HWC)
        else:
            prediction_HW = predictor.labels(sample.image_HWC)
        matrix = self.counts.update(label_HW, prediction_HW, confidence_HW).cpu().numpy()
        self.images.append(image_counts(sample.number, sample.key, matrix))
        if self.instances is not None:
            if sample.instance_ids_HW is None:
                self.instances = None  # packed without; scores of a part of the images would be wrong
            else:
                ids_HW = sample.instance_ids_HW.numpy()
                self.instances.append(instance_rows(sample.number, ids_HW, prediction_HW.cpu().numpy()))
        self._keep_for_report(sample, prediction_HW, matrix, predictor)

    def gather(self, source: SampleSource) -> EvaluationResult:
        """Counts of all ranks, the same on each. A collective."""
        manifest = source.manifest
        distributed.barrier()
        costs = distributed.gather_objects(Cost(time.perf_counter() - self.started, peak_memory(self.device)))
        parts = distributed.gather_objects((self.images, self.instances))
        images = [image for part, _ in parts for image in part]
        instances = None
        if all(rows is not None for _, rows in parts):
            instances = np.concatenate([no_instances(), *(row for _, rows in parts for row in rows)])
        for total in self.counts.sums().values():
            total.copy_(distributed.all_reduce_sum(total.to(self.device)))  # NCCL takes none in host memory
        return EvaluationResult(
            collect_counts(manifest.name, manifest.digest(), source.split, self.classes, images, instances),
            np.bincount([image.number for image in images], minlength=len(source)),
            distributed.world_size(),
            self.settings.protocol,
            self.counts.boundary.scores() if self.counts.boundary else None,
            self.counts.calibration.bins() if self.counts.calibration else (),
            self._gather_images(),
            Cost(max(cost.seconds for cost in costs), max(cost.peak_memory for cost in costs)),
            tuple(shares_of(manifest, source.split)),
        )

    def _keep_for_report(
        self, sample: EvaluationSample, prediction_HW: Tensor, matrix: np.ndarray, predictor: Predictor
    ) -> None:
        own_iou = scores(matrix, self.classes).iou_K[matrix.sum(axis=1) > 0]
        rank = -float(own_iou.mean()) if len(own_iou) else -1.0
        is_worst = self.settings.worst and (len(self.worst) < self.settings.worst or rank > self.worst[0][0])
        if not is_worst and sample.number not in self.spread:
            return
        image_HWC, label_HW = picture(sample.image_HWC.numpy(), self.shown_bands), sample.label_HW
        truth, predicted = (to_label_array(one, len(self.classes)) for one in (label_HW, prediction_HW))
        panel = EvaluatedImage(sample.number, sample.key, image_HWC, truth, predicted)
        if sample.number in self.spread:
            self.panels.append(replace(panel, maps=panel_maps(predictor, sample.image_HWC)))
        if is_worst:
            heapq.heappush(self.worst, (rank, -sample.number, panel))
            if len(self.worst) > self.settings.worst:
                heapq.heappop(self.worst)

    def _gather_images(self) -> tuple[EvaluatedImage, ...]:
        """On rank 0: those spread over the split in its order, then the worst ones, worst first."""
        candidates = distributed.gather_objects([entry[:2] for entry in self.worst])
        found = sorted((entry for part in candidates for entry in part), reverse=True)[: self.settings.worst]
        order = {-number: place for place, (_, number) in enumerate(found)}
        worst = [replace(panel, is_worst=True) for _, _, panel in self.worst if panel.number in order]
        parts = distributed.gather_objects((self.panels, worst))
        if not distributed.is_main():
            return ()
        spread = sorted((panel for panels, _ in parts for panel in panels), key=lambda panel: panel.number)
        return (*spread, *sorted((panel for _, panels in parts for panel in panels), key=lambda p: order[p.number]))
