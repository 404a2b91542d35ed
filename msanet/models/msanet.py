"""MSANet: encoder, two multi-level spatial attention modules, unpooling decoder (Guo, Jiang and Jiang 2021, tables 1-3).

Sizes in comments are for a 224x224 input at width 1; the network is fully convolutional and takes any size.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.errors import UserError
from msanet.models.blocks import Norm, conv_stack, init_he_normal, max_unpool, pad_to_multiple, scaled_channels
from msanet.models.msam import MSAM, LevelConv
from msanet.models.network import HeadOutput, SegmentationNetwork

Attention = Literal["full", "fusion", "none"]
ATTENTION_CELLS = {"quarter": 4, "half": 2}
"""Pixels of the image, along each axis, for a position of each attention module."""


class MSANet(SegmentationNetwork):
    """Logits for every pixel of an image of any size.

    Args:
        num_classes: Outputs per pixel.
        width: Multiplies every channel count; 1 is the paper's network, 19.56 million parameters with 21 classes.
        attention: `full` is the paper's network. `none` (decoder blocks without a second input) and `fusion` (the modules'
            fused features without equation 1, E = D) are two readings of its "MSANet without attention".
        norm: See `Norm`; the paper's is `batch`.
        attention_pool: Approximation of equation 1, exact at 1; see `spatial_attention`.
        attention_window: Likewise, exact at 0; a multiple of the pool.
        in_channels: Of the image; the paper's are 3.
    """

    stride = 1  # of the score map; the encoder's is 8

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        attention: Attention = "full",
        norm: Norm = "batch",
        attention_pool: int = 1,
        attention_window: int = 0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        _require_approximation(attention_pool, attention_window)
        c64, c128, c256, c512, c1024 = (scaled_channels(c, width) for c in (64, 128, 256, 512, 1024))
        self.encoder = nn.ModuleList(
            conv_stack(c_in, [(c_out, 3)] * 3, norm)
            for c_in, c_out in ((in_channels, c64), (c64, c128), (c128, c256), (c256, c512))
        )
        self.msam_quarter: MSAM | None = None
        self.msam_half: MSAM | None = None
        if attention != "none":
            options = (attention == "full", norm, attention_pool, attention_window)
            # three levels, 256 x 56 x 56
            self.msam_quarter = MSAM(
                [LevelConv(c64, c64, 12, 4, 4), LevelConv(c128, c64, 6, 2, 2), LevelConv(c256, c128, 3, 1, 1)],
                *options,
            )
            # two levels, 128 x 112 x 112
            self.msam_half = MSAM([LevelConv(c64, c64, 6, 2, 2), LevelConv(c128, c64, 3, 1, 1)], *options)
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

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        """See `SegmentationNetwork.forward_head`."""
        height, width = image_NCHW.shape[-2:]
        x, levels, indices = self._levels(image_NCHW)
        x = F.max_pool2d(self.run(self.encoder[3], x), kernel_size=3, stride=1, padding=1)  # 512 x 28 x 28

        attention = (None, self.msam_quarter, self.msam_half)
        for step, module in enumerate(attention):  # 256 x 56 x 56, 128 x 112 x 112, 64 x 224 x 224
            if module is not None:
                x = torch.cat([x, self.run(module, levels[: 4 - step])], dim=1)
            level = 2 - step
            size = (levels[level].shape[2], levels[level].shape[3])
            x = max_unpool(self.run(self.decoder[step], x), indices[level], size)
        x = self._run_exactly(self.decoder[3], x)  # 64 x 224 x 224
        return HeadOutput(
            self._run_exactly(self.classifier, x)[..., :height, :width], {"penultimate": x[..., :height, :width]}
        )

    @property
    def attends(self) -> bool:
        """Whether equation 1 is computed at all, so that there are maps of it."""
        return self.msam_quarter is not None and self.msam_quarter.attend

    @torch.no_grad()
    def attention_maps(self, image_NCHW: Tensor, queries_Q2: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """Where each module looks for chosen pixels (figure 7): {"quarter", "half": (N, Q, ceil(H / 4 or 2), ceil(W / ...))}.

        queries_Q2: (row, column) of pixels. A map is equation 1's softmax, with sum 1 including padding.
        """
        height, width = image_NCHW.shape[-2:]
        _, levels, _ = self._levels(image_NCHW)
        maps = {}
        for name, module, count in (("quarter", self.msam_quarter, 3), ("half", self.msam_half, 2)):
            cell = ATTENTION_CELLS[name]
            if module is not None and module.attend:
                columns = levels[0].shape[-1] // cell
                positions = [row // cell * columns + column // cell for row, column in queries_Q2]
                found = module.attention_map(levels[:count], torch.tensor(positions, device=image_NCHW.device))
                maps[name] = found[..., : -(-height // cell), : -(-width // cell)]
        return maps

    def _levels(self, image_NCHW: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The pooled output of the third block; activations before each pooling, and where each maximum was."""
        x = pad_to_multiple(image_NCHW, 8)
        levels, indices = [], []
        for block in self.encoder[:3]:
            levels.append(self._run_exactly(block, x))
            x, where = F.max_pool2d(levels[-1], 2, return_indices=True)
            indices.append(where)
        return x, levels, indices

    def _run_exactly(self, block: nn.Module, x_NCHW: Tensor) -> Tensor:
        """`run`; in evaluation in float32 even under autocast. Attention and the deeper blocks stay in bfloat16.

        In bfloat16 the largest of four values often ties with another, and pooling notes another index: most labels that
        differed in bfloat16 did so for that reason (docs/performance.md).
        """
        kind = x_NCHW.device.type
        if self.training or x_NCHW.is_meta or not torch.is_autocast_enabled(kind):
            return self.run(block, x_NCHW)
        with torch.autocast(kind, enabled=False):
            return block(x_NCHW.float())


def _require_approximation(pool: int, window: int) -> None:
    if pool < 1:
        raise UserError(
            "MSA-MODEL-003",
            f"model.attention_pool is {pool}, expected 1 (exact) or more; fix it",
            setting="model.attention_pool",
        )
    if window < 0 or window % pool:
        raise UserError(
            "MSA-MODEL-006",
            f"model.attention_window is {window}, expected 0 (exact) or a multiple of model.attention_pool={pool}; fix one",
            setting="model.attention_window",
        )
