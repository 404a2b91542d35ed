"""Multi-level spatial attention module (MSANet paper, section 3.2, equations 1-2, figure 2, table 3)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from msanet.models.attention.spatial import attention_weights, spatial_attention
from msanet.models.blocks import Norm, conv_norm_relu


class LevelConv(NamedTuple):
    """One row of table 3: the convolution that brings one encoder level to the module's common size."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int


class MSAM(nn.Module):
    """Fuse encoder levels by strided convolutions, then attend over all positions: E = attention(A, B, C) + D.

    levels: one `LevelConv` per input, all giving the same output size. Output: (N, channels, H, W), channels being the sum
    of the levels' out_channels. attend=False returns E = D, an ablation. A, B, C, D are 1x1 convolutions without BN or ReLU
    (a reading: docs/models.md). pool, window: see `spatial_attention`. attention: computes equation 1, replaceable.
    """

    def __init__(
        self,
        levels: Sequence[LevelConv],
        attend: bool = True,
        norm: Norm = "batch",
        pool: int = 1,
        window: int = 0,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(conv_norm_relu(*level, norm=norm) for level in levels)
        self.channels = sum(level.out_channels for level in levels)
        self.attend = attend
        self.pool, self.window = pool, window
        attention: Callable[[Tensor, Tensor, Tensor], Tensor] = partial(spatial_attention, pool=pool, window=window)
        self.attention = attention
        names = "abcd" if attend else "d"
        self.project = nn.ModuleDict({name: nn.Conv2d(self.channels, self.channels, 1) for name in names})

    def attention_map(self, inputs: Sequence[Tensor], queries_Q: Tensor) -> Tensor:
        """Equation 1's s_ij for chosen j of the module's grid, (N, Q, H, W): see `attention_weights`."""
        fused = self._fuse(inputs)
        a_NCHW, b_NCHW = self.project["a"](fused), self.project["b"](fused)
        return attention_weights(a_NCHW, b_NCHW, queries_Q, self.pool, self.window)

    def _fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat([level(x) for level, x in zip(self.levels, inputs, strict=True)], dim=1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        fused = self._fuse(inputs)
        d = self.project["d"](fused)
        if not self.attend:
            return d
        a, b, c = (self.project[name](fused) for name in "abc")
        return self.attention(a, b, c) + d
