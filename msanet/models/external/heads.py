"""Light heads on backbones of timm: a semantic FPN on a pyramid, and a linear or multi-level head on a plain ViT."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.models.blocks import bilinear, conv_norm_relu

Head = Literal["auto", "fpn", "linear", "multilevel"]


class BackboneWithHead(nn.Module):
    """Features of a backbone at several levels, and a head that makes logits of them at the finest level's resolution.

    Args:
        backbone: What `create_backbone` returns: (N, C, H, W) -> features (N, C_i, H / r_i, W / r_i), the finest first.
        num_classes: K.
        head: `fpn`, the semantic FPN of Kirillov et al. 2019 (Panoptic feature pyramid networks, figure 3); `linear`, one
            1x1 convolution on BatchNorm of the last level, as DINOv2 is evaluated; `multilevel`, the same on all levels,
            concatenated, with a hidden layer; `auto`: fpn for a pyramid, multilevel if all levels have one resolution.
        head_channels: Of the FPN's maps or of the hidden layer.
        dropout: Of whole channels before the classifier.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, head: Head = "auto", head_channels: int = 128, dropout: float = 0.1
    ) -> None:
        super().__init__()
        info: Any = backbone.feature_info
        channels, strides = list(info.channels()), list(info.reduction())
        if strides[0] == 2 and len(strides) > 1:  # half resolution costs most and helps least
            channels, strides, first = channels[1:], strides[1:], 1
        else:
            first = 0
        self.first, self.strides = first, strides
        is_pyramid = len(set(strides)) > 1
        self.head = "fpn" if head == "auto" and is_pyramid else "multilevel" if head == "auto" else head
        self.backbone = backbone
        if self.head == "fpn":
            self.decoder: nn.Module = FPN(channels, strides, head_channels)
        elif self.head == "multilevel":
            self.decoder = nn.Sequential(
                nn.BatchNorm2d(sum(channels)), nn.Conv2d(sum(channels), head_channels, 1), nn.ReLU()
            )
        else:
            self.decoder = nn.BatchNorm2d(channels[-1])
            head_channels = channels[-1]
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """(N, K, H / r, W / r), r of the finest level that the head sees."""
        features = list(self.backbone(image_NCHW))[self.first :]
        if self.head == "multilevel":
            size = (features[0].shape[2], features[0].shape[3])
            features = [f if f.shape[2:] == features[0].shape[2:] else bilinear(f, size) for f in features]
            x = self.decoder(torch.cat(features, dim=1))
        else:
            x = self.decoder(features) if self.head == "fpn" else self.decoder(features[-1])
        return self.classifier(self.dropout(x))


class FPN(nn.Module):
    """Semantic FPN: top-down sums of 1x1 projections, each brought to the finest level by convolutions and 2x steps, summed."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.branches = nn.ModuleList(
            nn.ModuleList(conv_norm_relu(width, width, 3) for _ in range(max(1, (s // strides[0]).bit_length() - 1)))
            for s in strides
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [project(feature) for project, feature in zip(self.lateral, features, strict=True)]
        for fine, coarse in zip(range(len(maps) - 2, -1, -1), range(len(maps) - 1, 0, -1), strict=True):
            maps[fine] = maps[fine] + F.interpolate(maps[coarse], size=maps[fine].shape[2:], mode="nearest")
        total = None
        for level, (x, branch) in enumerate(zip(maps, self.branches, strict=True)):
            for depth, block in enumerate(branch.children()):
                x = block(x)
                if level:  # the next finer level, or the finest after the last block
                    target = maps[0] if depth == len(branch) - 1 else maps[max(0, level - depth - 1)]  # type: ignore[arg-type]
                    x = bilinear(x, (target.shape[2], target.shape[3]))
            total = x if total is None else total + x
        assert total is not None
        return total


def create_backbone(timm: Any, name: str, **options: Any) -> nn.Module:
    """timm's model as a feature extractor of (N, C, H, W) maps, for images of any size where it can take them."""
    try:
        network = timm.create_model(name, features_only=True, pretrained=False, **{"dynamic_img_size": True, **options})
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
        network = timm.create_model(name, features_only=True, pretrained=False, **options)
    layout = getattr(network, "output_fmt", "NCHW")
    return network if str(layout).endswith("NCHW") else _ChannelsFirst(network)


class _ChannelsFirst(nn.Module):
    """Some transformers of timm give (N, H, W, C)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.feature_info = network.feature_info

    def forward(self, image_NCHW: Tensor) -> list[Tensor]:
        return [feature.permute(0, 3, 1, 2).contiguous() for feature in self.network(image_NCHW)]
