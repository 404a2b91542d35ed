"""Losses as sums over pixels or images, divided by counts of the global batch; `loss.custom` adds those of users.

So a gradient does not depend on how a batch is shared among ranks and micro-batches. A crop without labels gives zero gradients.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.config import LossConfig
from msanet.datasets import ignore_index
from msanet.errors import UserError
from msanet.plugins import first_line, require_plugin


class SegmentationLoss(nn.Module):
    """The terms of the section `loss`, weighted.

    forward: logits (N, K, H, W), labels (N, H, W) and the `counts` of the global batch -> scalar, in float32 or better.

    Args:
        config: Terms and their weights.
        histogram: Labeled pixels per class of the training split, for median-frequency weights.

    Raises:
        UserError: The settings do not fit the number of classes.
    """

    weights_K: Tensor | None

    def __init__(self, config: LossConfig, histogram: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.num_classes = len(histogram)
        self.register_buffer("weights_K", class_weights(config.class_weights, histogram))
        self._custom = [(name, _custom_loss(name)) for name in config.custom]
        self._modules_of_custom = nn.ModuleList(own for _, own in self._custom if isinstance(own, nn.Module))

    def counts(self, labels_NHW: Tensor) -> Tensor:
        """What sums are divided by, (3,) float64, from the labels alone.

        Pixels of the cross-entropy (weighted, or the hardest), images with a label, and labeled pixels.
        """
        labeled_N = (labels_NHW != ignore_index(self.num_classes)).sum(dim=(1, 2))
        pixels = _number_kept(labeled_N, self.config.ohem_ratio).sum()
        if self.weights_K is not None and self.config.ohem_ratio == 1:
            pixels = _weight_map(labels_NHW, self.weights_K).sum(dtype=torch.float64)
        return torch.stack([pixels.double(), (labeled_N > 0).sum().double(), labeled_N.sum().double()])

    def forward(self, logits_NKHW: Tensor, labels_NHW: Tensor, counts_3: Tensor) -> Tensor:
        logits_NKHW = logits_NKHW.to(torch.promote_types(logits_NKHW.dtype, torch.float32))  # never sum in bf16
        # Weights may add up to less than 1, which must not change the loss.
        pixels, images, labeled = torch.where(counts_3 > 0, counts_3, 1).to(logits_NKHW.dtype)
        terms = self.config
        loss = logits_NKHW.new_zeros(())
        if terms.cross_entropy:
            total = cross_entropy_sum(logits_NKHW, labels_NHW, self.weights_K, terms.ohem_ratio)
            loss = loss + terms.cross_entropy * total / pixels
        if terms.dice:
            loss = loss + terms.dice * dice_sum(logits_NKHW, labels_NHW) / images
        if terms.lovasz:
            loss = loss + terms.lovasz * lovasz_sum(logits_NKHW, labels_NHW) / images
        if terms.focal:
            loss = loss + terms.focal * focal_sum(logits_NKHW, labels_NHW, terms.focal_gamma) / labeled
        if terms.tversky:
            total = tversky_sum(logits_NKHW, labels_NHW, terms.tversky_alpha, terms.tversky_beta)
            loss = loss + terms.tversky * total / images
        if terms.boundary:
            loss = loss + terms.boundary * boundary_sum(logits_NKHW, labels_NHW, terms.boundary_tolerance) / images
        for name, own in self._custom:
            of_pixels, of_images = custom_sums(name, own, logits_NKHW, labels_NHW)
            loss = loss + of_pixels / labeled + of_images / images
        return loss


def cross_entropy_sum(
    logits_NKHW: Tensor, labels_NHW: Tensor, weights_K: Tensor | None = None, ohem_ratio: float = 1.0
) -> Tensor:
    """Sum of -w[label] log softmax(logits)[label] over labeled pixels, float32 or better.

    Args:
        logits_NKHW: Any floating type.
        labels_NHW: Train ids; `ignore_index` of K, 255 in most datasets, is ignored.
        weights_K: w; 1 unless given.
        ohem_ratio: Of each image only this share of its labeled pixels, those with the largest loss (online hard example
            mining, Shrivastava et al. 2016, by image so that it does not depend on the micro-batch).
    """
    logits_NKHW = logits_NKHW.to(torch.promote_types(logits_NKHW.dtype, torch.float32))
    ignored = ignore_index(logits_NKHW.shape[1])
    labels, weights_K = labels_NHW.long(), None if weights_K is None else weights_K.to(logits_NKHW.dtype)
    if ohem_ratio == 1:
        return F.cross_entropy(logits_NKHW, labels, weights_K, ignore_index=ignored, reduction="sum")
    losses_NP = F.cross_entropy(logits_NKHW, labels, weights_K, ignore_index=ignored, reduction="none").flatten(1)
    kept_N = _number_kept((labels_NHW != ignored).sum(dim=(1, 2)), ohem_ratio)
    ranks_P = torch.arange(losses_NP.shape[1], device=losses_NP.device)
    hardest_first_NP = losses_NP.sort(dim=1, descending=True, stable=True).values
    return torch.where(ranks_P < kept_N[:, None], hardest_first_NP, 0).sum()


def dice_sum(logits_NKHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """Sum over images of 1 - Dice, the mean over the classes present in the image's labels (Milletari et al. 2016).

    Dice of a class is 2 sum(p y) / (sum(p) + sum(y)) over labeled pixels, p being the softmax (not its square): the Tversky
    index with weights of one half.
    """
    return tversky_sum(logits_NKHW, labels_NHW, 0.5, 0.5)


def tversky_sum(logits_NKHW: Tensor, labels_NHW: Tensor, alpha: float, beta: float) -> Tensor:
    """Sum over images of 1 - T, the mean over the classes present in the image's labels (Salehi et al. 2017, equation 3).

    T of a class is tp / (tp + alpha fp + beta fn), each a sum of softmax probabilities over labeled pixels.
    """
    truth_NKHW, labeled_N1HW = _one_hot(labels_NHW, logits_NKHW)
    p_NKHW = logits_NKHW.softmax(dim=1) * labeled_N1HW
    overlap_NK = (p_NKHW * truth_NKHW).sum(dim=(2, 3))
    present_NK = truth_NKHW.sum(dim=(2, 3))
    wrong_NK = alpha * (p_NKHW.sum(dim=(2, 3)) - overlap_NK) + beta * (present_NK - overlap_NK)
    index_NK = overlap_NK / (overlap_NK + wrong_NK).clamp(min=1e-6)
    return _mean_of_classes(1 - index_NK, present_NK > 0).sum()


def focal_sum(logits_NKHW: Tensor, labels_NHW: Tensor, gamma: float) -> Tensor:
    """Sum of -(1 - p)^gamma log p over labeled pixels, p that of the label (Lin et al. 2017, equation 4)."""
    labels, ignored = labels_NHW.long(), ignore_index(logits_NKHW.shape[1])
    negative_log_p_NHW = F.cross_entropy(logits_NKHW, labels, ignore_index=ignored, reduction="none")
    # expm1 keeps digits near p = 1; the clamp keeps the gradient of a power below 1 finite there.
    return ((-torch.expm1(-negative_log_p_NHW)).clamp(min=1e-12) ** gamma * negative_log_p_NHW).sum()


def boundary_sum(logits_NKHW: Tensor, labels_NHW: Tensor, tolerance: int) -> Tensor:
    """Sum over images of 1 - F1 of the boundaries, the mean over the classes that have one in the image's labels.

    Bokhovkin and Burnaev 2019, "Boundary Loss for Remote Sensing Imagery Semantic Segmentation", section 3: a boundary is
    what a 3x3 erosion takes away, and counts as found within `tolerance` pixels. Pixels next to an ignored one count on
    neither side.
    """
    truth_NKHW, labeled_N1HW = _one_hot(labels_NHW, logits_NKHW)
    inside_N1HW = -F.max_pool2d(-labeled_N1HW, 3, stride=1, padding=1)
    found_NKHW = _boundaries(logits_NKHW.softmax(dim=1)) * inside_N1HW
    true_NKHW = _boundaries(truth_NKHW) * inside_N1HW
    window, all_pixels = 2 * tolerance + 1, (2, 3)
    near_true_NKHW = F.max_pool2d(true_NKHW, window, stride=1, padding=tolerance)
    near_found_NKHW = F.max_pool2d(found_NKHW, window, stride=1, padding=tolerance)
    true_NK = true_NKHW.sum(all_pixels)
    precision_NK = (found_NKHW * near_true_NKHW).sum(all_pixels) / found_NKHW.sum(all_pixels).clamp(min=1e-6)
    recall_NK = (true_NKHW * near_found_NKHW).sum(all_pixels) / true_NK.clamp(min=1e-6)
    f1_NK = 2 * precision_NK * recall_NK / (precision_NK + recall_NK).clamp(min=1e-6)
    return _mean_of_classes(1 - f1_NK, true_NK > 0).sum()


def custom_sums(name: str, loss: Callable[..., Any], logits_NKHW: Tensor, labels_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over labeled pixels and over images with a label of a loss of `loss.custom`, of which it has one.

    Args:
        name: As in the setting.
        loss: (logits (N, K, H, W), int64 labels (N, H, W), ignore_index) -> losses of pixels (N, H, W) or images (N,).

    Raises:
        UserError: It raises, or returns something else.
    """
    ignored = ignore_index(logits_NKHW.shape[1])
    labeled_NHW = labels_NHW != ignored
    try:
        values = loss(logits_NKHW, labels_NHW.long(), ignored)
    except Exception as error:  # whatever a user's loss does
        message = f"loss.custom has '{name}', which raised {type(error).__name__}: {first_line(error)}; fix that code"
        raise UserError("MSA-MODEL-652", message, setting="loss.custom") from error
    nothing, shape = logits_NKHW.new_zeros(()), getattr(values, "shape", None)
    if shape == labels_NHW.shape:
        return torch.where(labeled_NHW, values, 0).sum(), nothing
    if shape == labels_NHW.shape[:1]:
        return nothing, torch.where(labeled_NHW.flatten(1).any(dim=1), values, 0).sum()
    found = f"a tensor of shape {tuple(shape)}" if shape is not None else f"a {type(values).__name__}"
    pixels, images = tuple(labels_NHW.shape), tuple(labels_NHW.shape[:1])
    message = (
        f"loss.custom has '{name}', which returned {found}, expected losses of pixels {pixels} or of images {images}"
    )
    raise UserError("MSA-MODEL-651", f"{message}; fix that code", setting="loss.custom")


def lovasz_sum(logits_NKHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """Sum over images of the Lovasz-Softmax loss, the mean over the classes present (Berman et al. 2018, section 3.1)."""
    truth_NKHW, labeled_N1HW = _one_hot(labels_NHW, logits_NKHW)
    # Ignored pixels have error 0 and no truth: they sort last and change no Jaccard index.
    errors_NKP = ((truth_NKHW - logits_NKHW.softmax(dim=1)).abs() * labeled_N1HW).flatten(2)
    errors_NKP, order_NKP = errors_NKP.sort(dim=2, descending=True, stable=True)  # ties would depend on the batch
    sorted_truth_NKP = truth_NKHW.flatten(2).gather(2, order_NKP)
    sorted_labeled_NKP = labeled_N1HW.flatten(2).expand_as(order_NKP).gather(2, order_NKP)
    present_NK1 = sorted_truth_NKP.sum(dim=2, keepdim=True)
    intersection_NKP = present_NK1 - sorted_truth_NKP.cumsum(dim=2)
    union_NKP = present_NK1 + (sorted_labeled_NKP - sorted_truth_NKP).cumsum(dim=2)
    jaccard_NKP = 1 - intersection_NKP / union_NKP.clamp(min=1)
    steps_NKP = jaccard_NKP.diff(dim=2, prepend=torch.zeros_like(jaccard_NKP[..., :1]))
    return _mean_of_classes((errors_NKP * steps_NKP).sum(dim=2), present_NK1.squeeze(2) > 0).sum()


def class_weights(chosen: str | Sequence[float], histogram: Sequence[int]) -> Tensor | None:
    """(K,) float32 weights, or None for `none`. `median_frequency`: the median of the classes' shares over each one's own;
    `sqrt_median_frequency`: its square root, which leaves frequent classes more of their weight.

    Shares are of all labeled pixels of the split (Eigen and Fergus 2015 take only images that show the class); a class
    that never occurs has weight 1. Raises UserError if the given weights are not one for each class.
    """
    if chosen == "none":
        return None
    if chosen in ("median_frequency", "sqrt_median_frequency"):
        counts = torch.tensor(histogram, dtype=torch.float64)
        median = counts[counts > 0].quantile(0.5) if (counts > 0).any() else torch.tensor(1.0)
        weights_K = torch.where(counts > 0, median / counts.clamp(min=1), 1.0)
        return (weights_K.sqrt() if chosen.startswith("sqrt") else weights_K).float()
    if len(chosen) != len(histogram):
        raise UserError(
            "MSA-MODEL-019",
            f"loss.class_weights has {len(chosen)} weights, expected one for each of the {len(histogram)} classes; fix it",
            setting="loss.class_weights",
        )
    return torch.tensor([float(weight) for weight in chosen])


def _custom_loss(name: str) -> Callable[..., Any]:
    loss: Any = require_plugin(name, "loss.custom")
    if inspect.isclass(loss):
        loss = loss()
    return loss


def _mean_of_classes(loss_NK: Tensor, is_present_NK: Tensor) -> Tensor:
    """(N,); 0 where no class is present."""
    return (loss_NK * is_present_NK).sum(dim=1) / is_present_NK.sum(dim=1).clamp(min=1)


def _boundaries(mask_NKHW: Tensor) -> Tensor:
    """What an erosion by 3x3 pixels takes from a soft mask."""
    return F.max_pool2d(1 - mask_NKHW, 3, stride=1, padding=1) - (1 - mask_NKHW)


def _number_kept(labeled_N: Tensor, ohem_ratio: float) -> Tensor:
    return labeled_N if ohem_ratio == 1 else torch.ceil(labeled_N.double() * ohem_ratio).long()


def _weight_map(labels_NHW: Tensor, weights_K: Tensor) -> Tensor:
    padded = F.pad(weights_K, (0, ignore_index(len(weights_K)) + 1 - len(weights_K)))  # ignored pixels weigh nothing
    return padded[labels_NHW.long()]


def _one_hot(labels_NHW: Tensor, logits_NKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Truth (N, K, H, W), zero where ignored, and which pixels are labeled (N, 1, H, W), both in the logits' type."""
    labeled_NHW = labels_NHW != ignore_index(logits_NKHW.shape[1])
    classes = torch.where(labeled_NHW, labels_NHW, 0).long()
    truth_NKHW = F.one_hot(classes, logits_NKHW.shape[1]).permute(0, 3, 1, 2) * labeled_NHW[:, None]
    return truth_NKHW.to(logits_NKHW.dtype), labeled_NHW[:, None].to(logits_NKHW.dtype)
