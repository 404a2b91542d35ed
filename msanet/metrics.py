"""The evaluator's scores in a training loop of any kind: a `torchmetrics.Metric`, and the same for transformers' Trainer.

Importing this module imports torchmetrics, which nothing else here does. The counts and all that follows from them are the
evaluator's own (`msanet.evaluation.segmentation_counts`, `msanet.evaluation.result`), so the scores are equal to the last digit.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from msanet.datasets import CITYSCAPES, IGNORE_INDEX, VOC
from msanet.errors import UserError
from msanet.evaluation.per_image_counts import collect_counts, image_counts
from msanet.evaluation.protocols import Protocol
from msanet.evaluation.result import EvaluationResult
from msanet.evaluation.segmentation_counts import SegmentationCounts, image_cells, images_of_cells, unique_images
from msanet.inference.predictor import softmax_of_highest
from msanet.models.blocks import bilinear

try:
    from torchmetrics import Metric
except (ImportError, RuntimeError) as _error:  # the latter from a torchvision without its operators
    raise UserError(
        "MSA-EVAL-720",
        f"torchmetrics cannot be imported ({str(_error).splitlines()[0]}), expected 1.6 or newer and, if torchvision is there, "
        "the release that goes with torch; install them again",
    ) from _error

_CLASSES = {"official-cityscapes": CITYSCAPES.classes, "official-voc": VOC.classes}


class SegmentationScores(Metric):
    """Dataset-level scores of semantic segmentation: pixels are added over all images and ranks, and divided once.

    States are int64 and summed over ranks, so that batches, their order and the number of ranks change nothing.
    `compute` returns every score as a float64 scalar by name: `mean_iou`, `mean_accuracy`, `pixel_accuracy`,
    `frequency_weighted_iou`, `mean_dice`, and of each class `iou/NAME`, `accuracy/NAME`, `precision/NAME`, `dice/NAME` and
    `support/NAME` (labeled pixels); with `boundary` and `calibration` also `mean_boundary_iou`, `mean_boundary_f1`,
    `boundary_iou/NAME`, `boundary_f1/NAME` and `expected_calibration_error`; with official-cityscapes `mean_categories` and
    `categories/NAME`. NaN where undefined. docs/evaluation.md has the definitions.

        scores = SegmentationScores(num_classes=19)
        for images, labels in loader:
            scores.update(network(images), labels)
        print(scores.compute()["mean_iou"])

    Args:
        num_classes: K, 1 to 255.
        ignore_index: Label of pixels that are not counted; None if there is none. Predicted, it is no class: a miss.
        protocol: `default`, `official-cityscapes` or `official-voc`; see `msanet.evaluation.protocols`.
        per_image: Keep the counts of every image too, about 1 KB each, for `evaluation`.
        class_names: K names; the protocol's own, else `0`, `1`, ..., unless given.
        boundary: Measure Boundary IoU and boundary F1, on the CPU.
        calibration: Measure the expected calibration error, which needs logits or probabilities.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        UserError: MSA-EVAL-722 if the arguments do not fit each other.
    """

    full_state_update = False
    is_differentiable = False
    confusion_matrix: Tensor
    image_cells: list[Tensor] | Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = IGNORE_INDEX,
        protocol: Protocol = "default",
        per_image: bool = False,
        class_names: Sequence[str] | None = None,
        boundary: bool = False,
        calibration: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if protocol not in get_args(Protocol):
            _refuse("protocol", f"is '{protocol}', expected {', '.join(get_args(Protocol))}; choose one")
        if not 1 <= num_classes <= 255:
            _refuse("num_classes", f"is {num_classes}, expected 1 to 255; fix it")
        names = tuple(class_names or _CLASSES.get(protocol) or map(str, range(num_classes)))
        if len(set(names)) != num_classes or len(names) != num_classes:
            _refuse(
                "class_names",
                f"has {len(set(names))} different names, expected num_classes={num_classes}; fix one of them",
            )
        if _CLASSES.get(protocol, names) != names:
            _refuse(
                "class_names", f"starts with {names[:3]}, expected the classes of {protocol}; choose protocol='default'"
            )
        self.num_classes, self.ignore_index, self.protocol, self.class_names = (
            num_classes,
            ignore_index,
            protocol,
            names,
        )
        self.per_image, self.boundary, self.calibration = per_image, boundary, calibration
        for name, zeros in self._no_counts().sums().items():
            self.add_state(name, zeros, dist_reduce_fx="sum")
        if per_image:
            self.add_state("image_cells", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor, numbers: Tensor | Sequence[int] | None = None) -> None:
        """Count a batch; nothing of it if an error is raised.

        Args:
            preds: Logits or probabilities, float (N, K, H, W), of any H and W: they are resized to the labels' size (bilinear)
                before the likeliest class is taken. Or class ids, integers (N, H, W), of the labels' size; 255 or
                `ignore_index` are no class. For calibration, what is not negative and sums to 1 is taken as probabilities.
            target: Class ids, integers (N, H, W), or `ignore_index`.
            numbers: (N,) indexes of the images in the dataset, for `per_image`. Unless given, images are numbered in the order
                they were counted, one rank after another, and one that two ranks were given counts twice.

        Raises:
            UserError: MSA-EVAL-721 (shape, type), 003 (class ids), 001 (NaN), 723 (numbers).
        """
        self._check_shapes(preds, target)
        known_numbers = _checked(numbers, len(target))
        counts, images = self._no_counts(target.device), []
        for number, scores, label in zip(known_numbers, preds, target, strict=True):
            label_HW = self._train_ids(label, "target")
            matrix = counts.update(label_HW, *self._predicted(scores, label_HW))
            if self.per_image:
                images.append(image_cells(number, matrix).to(self.device))
        for name, found in counts.sums().items():
            setattr(self, name, getattr(self, name) + found.to(self.device))
        if self.per_image:
            assert isinstance(self.image_cells, list)
            self.image_cells += images

    def compute(self) -> dict[str, Tensor]:
        """All scores by name, float64 scalars on the metric's device, the same on every rank."""
        metrics = self._result(None, "", "").flat_metrics()
        return {name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in metrics.items()}

    def evaluation(self, keys: Sequence[str] | None = None, dataset: str = "", split: str = "val") -> EvaluationResult:
        """What the evaluator returns: `to_json` has intervals and the worst images, `write_evaluation` what `compare` reads.

        A collective where `sync_on_compute` is set, as it is by default.

        Args:
            keys: Names of all images of the dataset, by which `compare` pairs them; their numbers unless given.
            dataset: Name of the dataset.
            split: Name of the split.

        Raises:
            UserError: MSA-EVAL-724 without `per_image`, 723 if there are fewer keys than images.
        """
        if not self.per_image:
            problem = "the metric keeps no per-image counts, expected per_image=True; construct it with that"
            raise UserError("MSA-EVAL-724", problem, setting="per_image")
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._result(keys, dataset, split)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As in torchmetrics, which gathers the lists of ranks without images as another type and shape."""
        if self.per_image and not len(self.image_cells) and not self._is_synced:
            self.image_cells = [torch.zeros(0, 3, dtype=torch.int64, device=self.device)]
        super().sync(*args, **kwargs)

    def _no_counts(self, device: torch.device | str = "cpu") -> SegmentationCounts:
        return SegmentationCounts(self.num_classes, self.boundary, self.calibration, device)

    def _result(self, keys: Sequence[str] | None, dataset: str, split: str) -> EvaluationResult:
        counts = self._no_counts(self.device)
        counts.add({name: getattr(self, name) for name in counts.sums()})
        if self.per_image:
            images, times_seen = unique_images(images_of_cells(self.image_cells), self.num_classes)
        else:
            images, times_seen = [image_counts(0, "all", counts.matrix.cpu().numpy())], np.ones(1, dtype=np.int64)
        if keys is not None:
            if len(keys) < len(times_seen):
                problem = f"keys has {len(keys)} names, but an image has number {len(times_seen) - 1}"
                raise UserError(
                    "MSA-EVAL-723", f"{problem}, expected one of each image of the dataset; give all", "keys"
                )
            images = [replace(image, key=keys[image.number]) for image in images]
        return EvaluationResult(
            collect_counts(dataset, "", split, self.class_names, images),
            np.pad(times_seen, (0, len(times_seen if keys is None else keys) - len(times_seen))),
            torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
            self.protocol,
            counts.boundary.scores() if counts.boundary else None,
            counts.calibration.bins() if counts.calibration else (),
        )

    def _check_shapes(self, preds: Tensor, target: Tensor) -> None:
        size = tuple(target.shape)
        if len(size) != 3 or target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            found = f"{size} {target.dtype}"
            raise UserError(
                "MSA-EVAL-721", f"target is {found}, expected integers (N, H, W); convert it", setting="target"
            )
        are_scores = preds.is_floating_point()
        fits = preds.ndim == 4 and preds.shape[:2] == (size[0], self.num_classes) if are_scores else preds.shape == size
        if not fits or preds.is_complex() or preds.dtype == torch.bool:
            raise UserError(
                "MSA-EVAL-721",
                f"preds is {tuple(preds.shape)} {preds.dtype}, expected floats ({size[0]}, {self.num_classes}, H, W) or integers "
                f"{size}; convert it",
                setting="preds",
            )
        if self.calibration and not are_scores:
            raise UserError(
                "MSA-EVAL-721",
                f"preds is class ids ({preds.dtype}), expected logits or probabilities for calibration; give those, or set "
                "calibration=False",
                setting="preds",
            )

    def _predicted(self, scores: Tensor, label_HW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class ids (H, W) uint8 of one image, on the label's device, and confidences if calibration is counted."""
        scores = scores.to(label_HW.device)
        if not scores.is_floating_point():
            return self._train_ids(scores, "preds"), None
        scores_1KHW = scores.float().unsqueeze(0)
        are_probabilities = self.calibration and _are_probabilities(scores_1KHW)
        if scores_1KHW.shape[2:] != label_HW.shape:
            scores_1KHW = bilinear(scores_1KHW, (label_HW.shape[0], label_HW.shape[1]))
        highest, labels = scores_1KHW.max(dim=1)
        if highest.isnan().any():
            raise UserError(
                "MSA-EVAL-001",
                "preds contains NaN, expected numbers; the network has diverged, use an earlier checkpoint",
                "preds",
            )
        confidence = None
        if self.calibration:
            confidence = (highest if are_probabilities else softmax_of_highest(highest, scores_1KHW))[0]
        return labels[0].to(torch.uint8), confidence

    def _train_ids(self, ids: Tensor, what: str) -> Tensor:
        """uint8, with 255 where the class is `ignore_index` (or 255 in a prediction)."""
        is_void = torch.zeros_like(ids, dtype=torch.bool) if self.ignore_index is None else ids == self.ignore_index
        if what == "preds":
            is_void |= ids == IGNORE_INDEX
        classes = ids.masked_fill(is_void, 0)
        if ids.numel() and not 0 <= classes.min() <= classes.max() < self.num_classes:
            raise UserError(
                "MSA-EVAL-003",
                f"{what} has values from {int(ids.min())} to {int(ids.max())}, expected 0 to {self.num_classes - 1} or "
                f"ignore_index={self.ignore_index}; convert it or fix num_classes",
                setting=what,
            )
        return classes.to(torch.uint8).masked_fill_(is_void, IGNORE_INDEX)


def hf_compute_metrics(num_classes: int, **options: Any) -> Callable[..., dict[str, float]]:
    """The `compute_metrics` of transformers' Trainer: all scores of `SegmentationScores` as floats.

    Set `batch_eval_metrics=True` in TrainingArguments, or the Trainer keeps all logits in memory until the end. Trainer
    gathers the predictions of all ranks itself, each image once. It pads labels with -100, which is never counted.

    Args:
        num_classes: K.
        **options: Further arguments of `SegmentationScores`; `ignore_index` is that of the labels.
    """
    metric = SegmentationScores(num_classes, sync_on_compute=False, **options)

    def compute_metrics(prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """prediction: a `transformers.EvalPrediction` of arrays or tensors, its first output the logits (N, K, h, w)."""
        logits, labels = prediction.predictions, torch.as_tensor(prediction.label_ids)
        logits = torch.as_tensor(logits[0] if isinstance(logits, tuple | list) else logits)
        if metric.ignore_index is not None:
            labels = labels.masked_fill(labels == -100, metric.ignore_index)
        metric.update(logits, labels)
        if not compute_result:
            return {}
        values = {name: float(value) for name, value in metric.compute().items()}
        metric.reset()
        return values

    return compute_metrics


def _refuse(argument: str, problem: str) -> None:
    raise UserError("MSA-EVAL-722", f"{argument} {problem}", setting=argument)


def _checked(numbers: Tensor | Sequence[int] | None, count: int) -> list[int]:
    """`count` numbers of images; -1 where they are not known."""
    if numbers is None:
        return [-1] * count
    values = torch.as_tensor(numbers)
    if values.shape != (count,) or values.is_floating_point() or (count and values.min() < 0):
        raise UserError(
            "MSA-EVAL-723",
            f"numbers is {values.tolist()}, expected the indexes in the dataset of {count} images; give those",
            setting="numbers",
        )
    return [int(value) for value in values]


def _are_probabilities(scores_1KHW: Tensor) -> bool:
    return bool(scores_1KHW.min() >= 0) and bool((scores_1KHW.sum(dim=1) - 1).abs().max() < 0.01)
