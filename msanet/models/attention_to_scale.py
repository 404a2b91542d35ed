"""Attention to Scale (Chen, Yang, Wang, Xu and Yuille 2016, sections 3.2, 3.3 and 4.1) around any other network.

Equations 1 and 2 are the paper's: g = sum over s of w^s f^s, w the softmax over scales of the attention head's output.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.errors import UserError, nearest
from msanet.models.blocks import init_he_normal, pad_to_multiple
from msanet.models.network import HeadOutput, SegmentationNetwork

Merge = Literal["attention", "average", "max"]


class AttentionToScale(SegmentationNetwork):
    """One network sees the image at several scales (a share-net); its score maps are merged to one, then upsampled.

    Logits and features of all scales are resized to the score map of the image itself. A scaled image is rounded up to full
    cells, so that all maps are aligned exactly. `HeadOutput.features` has only `scale_weights`: see that method.

    Args:
        network: The wrapped network.
        scales: Of the image, any positive numbers.
        merge: `attention` weights scales by position, with one weight for all classes (equations 1 and 2); `average` has
            the weight 1/S; `max` is taken class by class.
        extra_supervision: In training also each scale's own logits, weight 1 in the loss; auxiliary heads of the network
            are kept from the finest scale.
        features: Name of what the attention head sees, by default fc7 or the penultimate features.
        attention_kernel: Of the head's first layer; this and the next two are section 4.1's variants.
        attention_channels: Of the head's hidden layers.
        attention_layers: Of the head.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        scales: Sequence[Fraction | float] = (1, Fraction(3, 4), Fraction(1, 2)),
        merge: Merge = "attention",
        extra_supervision: bool = True,
        features: str = "",
        attention_kernel: int = 3,
        attention_channels: int = 512,
        attention_layers: int = 2,
    ) -> None:
        super().__init__()
        self.network = network
        self.stride = network.stride
        self.scales = tuple(Fraction(str(scale)) for scale in scales)  # 0.7 is 7/10
        self.merge = merge
        self.extra_supervision = extra_supervision
        self.features = features or ("fc7" if "fc7" in network.feature_channels else "penultimate")
        if self.features not in network.feature_channels:
            known = sorted(network.feature_channels)
            raise UserError(
                "MSA-MODEL-005",
                f"model.features is '{self.features}', which is not a feature of the network; {nearest(self.features, known)}",
                setting="model.features",
            )
        count = len(self.scales)
        self.feature_channels = {"scale_weights": count}
        self.classifier_names = tuple(f"network.{name}" for name in network.classifier_names)
        self.auxiliary_weights = (1.0,) * (count if extra_supervision else 0) + network.auxiliary_weights
        self.attention: nn.Sequential | None = None
        if merge == "attention":
            channels = [count * network.feature_channels[self.features], *[attention_channels] * (attention_layers - 1)]
            self.attention = _attention_head(channels, count, attention_kernel)
            if self.features == "fc8":  # the scores themselves
                self.classifier_names += ("attention.0",)

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        """See `SegmentationNetwork.forward_head`."""
        rows, columns = (-(-size // self.stride) for size in image_NCHW.shape[-2:])
        outputs = [self.network.forward_head(image) for image in self._scaled(image_NCHW)]
        scores = [resize(one.logits, (rows, columns)) for one in outputs]  # S times (N, C, h, w)
        merged, weights = self._merged(torch.stack(scores, dim=1), [one.features[self.features] for one in outputs])
        auxiliary: tuple[Tensor, ...] = ()
        if self.training:
            finest = outputs[self.scales.index(max(self.scales))]
            auxiliary = tuple(scores) if self.extra_supervision else ()
            auxiliary += tuple(resize(head, (rows, columns)) for head in finest.auxiliary)
        return HeadOutput(merged, {"scale_weights": weights}, auxiliary)

    def scale_weights(self, image_NCHW: Tensor) -> Tensor:
        """The weight of each scale at each cell of the score map, (N, S, h, w), 1 in sum; scales in the given order.

        attention: equation 2. average: 1/S. max: the share of the classes whose maximum this scale has.
        """
        return self.forward_head(image_NCHW).features["scale_weights"]

    def _scaled(self, image_NCHW: Tensor) -> list[Tensor]:
        """The image at each scale, padded to full cells before and after."""
        if self.scales == (1,):
            return [image_NCHW]
        image_NCHW = pad_to_multiple(image_NCHW, self.stride)
        height, width = (size // self.stride for size in image_NCHW.shape[-2:])
        images = []
        for scale in self.scales:
            up, down = scale.numerator, scale.denominator  # rounded up without a minus: ONNX divides towards zero
            size = ((height * up + down - 1) // down * self.stride, (width * up + down - 1) // down * self.stride)
            images.append(image_NCHW if scale == 1 else resize(image_NCHW, size))
        return images

    def _merged(self, scores_NSCHW: Tensor, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Merged scores (N, C, h, w), and the weights of the scales (N, S, h, w)."""
        count, size = len(features), (scores_NSCHW.shape[3], scores_NSCHW.shape[4])
        if self.merge == "max":
            merged, winners_NCHW = scores_NSCHW.max(dim=1)
            won = [(winners_NCHW == scale).to(merged.dtype).mean(dim=1) for scale in range(count)]
            return merged, torch.stack(won, dim=1)
        if self.attention is None:
            return scores_NSCHW.mean(dim=1), torch.full_like(scores_NSCHW[:, :, 0], 1 / count)
        concatenated = torch.cat([resize(feature, size) for feature in features], dim=1)
        weights = self.attention(concatenated).softmax(dim=1)
        return weighted_sum(scores_NSCHW, weights), weights


def weighted_sum(scores_NSCHW: Tensor, weights_NSHW: Tensor) -> Tensor:
    """Equation 1: the same weight for all classes of a scale at a position, (N, C, H, W)."""
    return (weights_NSHW[:, :, None] * scores_NSCHW).sum(dim=1)


def resize(x_NCHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Bilinear, with aligned borders."""
    return F.interpolate(x_NCHW, size=size_HW, mode="bilinear", align_corners=False)


def parse_scales(text: str) -> tuple[Fraction, ...]:
    """`1,0.75,0.5` as numbers. Raises UserError unless they are positive numbers."""
    try:
        scales = tuple(Fraction(part.strip()) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        scales = ()
    if not scales or min(scales) <= 0:
        raise UserError(
            "MSA-MODEL-004",
            f"model.scales is '{text}', expected positive numbers such as '1,0.75,0.5'; fix it",
            setting="model.scales",
        )
    return scales


def _attention_head(channels: Sequence[int], count: int, kernel: int) -> nn.Sequential:
    """Convolutions through `channels`, the first with `kernel` and the others 1x1, ReLU between; `count` outputs.

    The last starts as N(0, 0.01), as DeepLab's classifier does: scales begin with nearly equal weights.
    """
    layers: list[nn.Module] = []
    for c_in, c_out in zip(channels, [*channels[1:], count], strict=True):
        size = 1 if layers else kernel
        layers += [nn.Conv2d(c_in, c_out, size, padding=size // 2), nn.ReLU(inplace=True)]
    head = nn.Sequential(*layers[:-1])
    head.apply(init_he_normal)
    nn.init.normal_(head[-1].weight, std=0.01)  # type: ignore[arg-type]
    return head
