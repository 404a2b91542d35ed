"""DeepLabv3 on ResNet-50 or ResNet-101 (Chen et al. 2017, "Rethinking atrous convolution", sections 3.2 and 3.3).

Sizes in comments are for a 224x224 input at width 1 and output stride 16.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from msanet.models.blocks import (
    ImageBatchNorm2d,
    Norm,
    conv_norm_relu,
    init_he_normal,
    normalization,
    ordered_as,
    scaled_channels,
)
from msanet.models.network import HeadOutput, SegmentationNetwork
from msanet.models.resnet import Backbone, ResNet


class DeepLabV3(SegmentationNetwork):
    """A dilated ResNet, multi-grid 1, 2, 4 in its last layer, ASPP at rates 6, 12, 18 (doubled at stride 8), a classifier.

    A ResNet's cells lie half a cell before where `upsample` puts them, a constant shift that the convolutions learn, as in
    torchvision's DeepLabv3. width multiplies every channel count. auxiliary: in training also logits from layer3 by a 3x3
    and a 1x1 convolution, weight 0.4 in the loss (Zhao et al. 2017, section 3.2; DeepLabv3 has none).
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        backbone: Backbone = "resnet50",
        output_stride: Literal[8, 16] = 16,
        auxiliary: bool = False,
        norm: Norm = "batch",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        c256 = scaled_channels(256, width)
        self.stride = output_stride
        self.feature_channels = {"penultimate": c256}
        self.trunk = ResNet(backbone, width, output_stride, multi_grid=(1, 2, 4), norm=norm, in_channels=in_channels)
        c1024, c2048 = self.trunk.channels
        self.aspp = ASPP(c2048, c256, 16 // output_stride, norm)
        self.classifier = nn.Conv2d(c256, num_classes, 1)
        self.auxiliary: nn.Sequential | None = None
        if auxiliary:
            middle = c1024 // 4
            self.auxiliary = nn.Sequential(
                conv_norm_relu(c1024, middle, 3, norm=norm), nn.Conv2d(middle, num_classes, 1)
            )
            self.classifier_names = ("classifier", "auxiliary.1")
            self.auxiliary_weights = (0.4,)
        self.apply(init_he_normal)

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        """See `SegmentationNetwork.forward_head`."""
        layer3, layer4 = self.trunk(image_NCHW)  # 1024 x 14 x 14, 2048 x 14 x 14
        x = self.run(self.aspp, layer4)  # 256 x 14 x 14
        auxiliary = (self.auxiliary(layer3),) if self.training and self.auxiliary else ()
        return HeadOutput(self.classifier(x), {"penultimate": x}, auxiliary)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (section 3.3): 1x1, three dilated 3x3 and the image's mean, joined by a 1x1.

    rate_factor: multiplies the rates 6, 12, 18. forward: (N, in_channels, h, w) -> (N, channels, h, w).
    """

    def __init__(self, in_channels: int, channels: int, rate_factor: int = 1, norm: Norm = "batch") -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, channels, 1, norm=norm)])
        for rate in (6, 12, 18):
            self.branches.append(conv_norm_relu(in_channels, channels, 3, dilation=rate * rate_factor, norm=norm))
        self.image_branch = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False),
            ImageBatchNorm2d(channels) if norm == "batch" else normalization(channels, norm),
            nn.ReLU(inplace=True),
        )
        self.join = conv_norm_relu(5 * channels, channels, 1, norm=norm)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        parts = [branch(x_NCHW) for branch in self.branches]
        image = self.image_branch(x_NCHW.mean(dim=(2, 3), keepdim=True))  # 256 x 1 x 1
        return self.join(torch.cat([*parts, ordered_as(parts[0], image.expand_as(parts[0]))], dim=1))
