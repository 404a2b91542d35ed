"""MSANet: encoder, two multi-level spatial attention modules, unpooling decoder (Guo, Jiang and Jiang 2021, tables 1-3).

Sizes in comments are for a 224x224 input at width 1; the network is fully convolutional and takes any size.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.models.blocks import Norm, conv_stack, init_he_normal, max_unpool, pad_to_multiple, scaled_channels
from msanet.models.msam import MSAM, LevelConv
from msanet.models.network import Scores, SegmentationNetwork

Attention = Literal["full", "fusion", "none"]


class MSANet(SegmentationNetwork):
    """Logits for every pixel of an image of any size.

    num_classes: outputs per pixel. width: multiplies every channel count (1 is the paper's network, 19.56 million
    parameters with 21 classes). attention: `full` is the paper's network; `none` is its "MSANet without attention",
    read as decoder blocks that get no second input; `fusion` keeps the modules' fused features but skips equation 1
    (E = D), the other reading of that ablation. norm: see `Norm`; the paper's is `batch`.
    """

    stride = 1  # of the score map; the encoder's is 8

    def __init__(
        self, num_classes: int, width: float = 1.0, attention: Attention = "full", norm: Norm = "batch"
    ) -> None:
        super().__init__()
        c64, c128, c256, c512, c1024 = (scaled_channels(c, width) for c in (64, 128, 256, 512, 1024))
        self.encoder = nn.ModuleList(
            conv_stack(c_in, [(c_out, 3)] * 3, norm)
            for c_in, c_out in ((3, c64), (c64, c128), (c128, c256), (c256, c512))
        )
        self.msam_quarter: MSAM | None = None
        self.msam_half: MSAM | None = None
        if attention != "none":
            attend = attention == "full"
            # three levels, 256 x 56 x 56
            self.msam_quarter = MSAM(
                [LevelConv(c64, c64, 12, 4, 4), LevelConv(c128, c64, 6, 2, 2), LevelConv(c256, c128, 3, 1, 1)],
                attend,
                norm,
            )
            # two levels, 128 x 112 x 112
            self.msam_half = MSAM([LevelConv(c64, c64, 6, 2, 2), LevelConv(c128, c64, 3, 1, 1)], attend, norm)
        quarter = self.msam_quarter.channels if self.msam_quarter else 0
        half = self.msam_half.channels if self.msam_half else 0
        self.decoder = nn.ModuleList(
            (
                conv_stack(c512, [(c1024, 3), (c512, 1), (c256, 3)], norm),  # 256 x 28 x 28
                conv_stack(c256 + quarter, [(c512, 3), (c256, 1), (c128, 3)], norm),  # 128 x 56 x 56
                conv_stack(c128 + half, [(c256, 3), (c128, 1), (c64, 3)], norm),  # 64 x 112 x 112
                conv_stack(c64, [(c128, 3), (c64, 1)], norm),  # 64 x 224 x 224
            )
        )
        self.classifier = nn.Conv2d(c64, num_classes, 3, padding=1)
        self.feature_channels = {"penultimate": c64}
        self.apply(init_he_normal)

    def score(self, image_NCHW: Tensor) -> Scores:
        """See `SegmentationNetwork.score`."""
        height, width = image_NCHW.shape[-2:]
        x = pad_to_multiple(image_NCHW, 8)
        levels, indices = [], []  # activations before pooling, and where each maximum was
        for block in self.encoder[:3]:
            levels.append(block(x))
            x, where = F.max_pool2d(levels[-1], 2, return_indices=True)
            indices.append(where)
        x = F.max_pool2d(self.encoder[3](x), kernel_size=3, stride=1, padding=1)  # 512 x 28 x 28

        x = max_unpool(self.decoder[0](x), indices[2], levels[2].shape[-2:])  # 256 x 56 x 56
        x = max_unpool(self.decoder[1](_join(x, self.msam_quarter, levels)), indices[1], levels[1].shape[-2:])
        x = max_unpool(self.decoder[2](_join(x, self.msam_half, levels[:2])), indices[0], levels[0].shape[-2:])
        x = self.decoder[3](x)  # 64 x 224 x 224
        return Scores(self.classifier(x)[..., :height, :width], {"penultimate": x[..., :height, :width]})


def _join(x: Tensor, module: MSAM | None, levels: list[Tensor]) -> Tensor:
    return x if module is None else torch.cat([x, module(levels)], dim=1)
