"""FCN-32s, FCN-16s and FCN-8s on VGG-16 (Long, Shelhamer and Darrell 2015, sections 4.1 and 4.2, figure 3).

Sizes in comments are for a 224x224 input at width 1 and 21 classes.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from msanet.models.blocks import init_he_normal, pad_to_multiple, scaled_channels
from msanet.models.network import HeadOutput, SegmentationNetwork
from msanet.models.vgg import VGG16, FullyConnected

Variant = Literal["32s", "16s", "8s"]


class FCN(SegmentationNetwork):
    """Scores of fc7 at stride 32, joined by sum with scores of pool4 (16s) and also of pool3 (8s).

    Convolutions are same-padded and the image is padded to a multiple of 32, instead of Caffe's pad of 100 pixels and crops
    (a reading). The score layers start at zero and the learned 2x transposed convolutions as bilinear interpolation, as in
    the paper; the last upsampling is bilinear.
    """

    def __init__(self, num_classes: int, width: float = 1.0, variant: Variant = "8s", in_channels: int = 3) -> None:
        super().__init__()
        c4096 = scaled_channels(4096, width)
        self.stride = int(variant.removesuffix("s"))
        self.feature_channels = {"penultimate": c4096}
        self.trunk = VGG16(width, in_channels=in_channels)
        self.fc = FullyConnected(self.trunk.channels[4], c4096, kernel=7)
        self.score_fc7 = nn.Conv2d(c4096, num_classes, 1)
        self.classifier_names = ("score_fc7",)
        self.apply(init_he_normal)
        nn.init.zeros_(self.score_fc7.weight)
        self.skips = {"32s": (), "16s": (4,), "8s": (4, 3)}[variant]  # pooling layers, coarsest first
        for pool in self.skips:
            score = nn.Conv2d(self.trunk.channels[pool - 1], num_classes, 1)
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)  # type: ignore[arg-type]
            self.add_module(f"upscore_pool{pool}", _bilinear_upsampling(num_classes))
            self.add_module(f"score_pool{pool}", score)
            self.classifier_names += (f"upscore_pool{pool}", f"score_pool{pool}")

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        """See `SegmentationNetwork.forward_head`. The feature is fc7, at stride 32."""
        height, width = image_NCHW.shape[-2:]
        pooled = self.trunk(pad_to_multiple(image_NCHW, 32))
        _, fc7 = self.run(self.fc, pooled[4])  # 4096 x 7 x 7
        scores = self.score_fc7(fc7)  # 21 x 7 x 7
        for pool in self.skips:  # 21 x 14 x 14, 21 x 28 x 28
            scores = self.get_submodule(f"upscore_pool{pool}")(scores)
            scores = scores + self.get_submodule(f"score_pool{pool}")(pooled[pool - 1])
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        return HeadOutput(scores[..., :rows, :columns], {"penultimate": fc7})


def _bilinear_upsampling(channels: int) -> nn.ConvTranspose2d:
    """By 2, (N, C, h, w) -> (N, C, 2h, 2w), each class by itself to begin with; beyond the border are zeros."""
    layer = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
    line = (0.25, 0.75, 0.75, 0.25)
    kernel = torch.tensor([[row * column for column in line] for row in line])
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(channels), range(channels)] = kernel
    return layer
