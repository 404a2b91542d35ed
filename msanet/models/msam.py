"""Multi-level spatial attention module (MSANet paper, section 3.2, equations 1-2, figure 2, table 3)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.models.blocks import Norm, conv_norm_relu


class LevelConv(NamedTuple):
    """One row of table 3: the convolution that brings one encoder level to the module's common size."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int


def spatial_attention(a_NCHW: Tensor, b_NCHW: Tensor, c_NCHW: Tensor) -> Tensor:
    """sum_i C_i s_ij with s_ij = exp(A_i . B_j) / sum_i exp(A_i . B_j); all (N, C, H, W), i and j run over H x W.

    Equation 1's softmax runs over i, the index of A and C. In the words of scaled dot-product attention: query B,
    key A, value C, one head, scale 1 (the paper has no 1/sqrt(d)). The fused kernel never holds the HW x HW map,
    which at 2048x1024 would be 550 GB in bf16.
    """
    # The kernel reads rows of C values. Contiguous rows are free in channels_last, and 2.6 to 4.0 times faster than
    # strided ones (forward and backward, 2,700 and 4,800 positions, one core of a Xeon, torch 2.13.0, 2026-11-21).
    query, key, value = (
        x.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()  # (N, C, H, W) -> (N, 1, HW, C)
        for x in (b_NCHW, a_NCHW, c_NCHW)
    )
    attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    return attended.squeeze(1).transpose(1, 2).reshape(c_NCHW.shape)


class MSAM(nn.Module):
    """Fuse encoder levels by strided convolutions, then attend over all positions: E = attention(A, B, C) + D.

    levels: one `LevelConv` per input, all giving the same output size. Output: (N, channels, H, W), where channels is
    the sum of the levels' out_channels. attend=False skips equation 1 and returns E = D: the same fused multi-level
    features, an ablation. A, B, C, D are plain 1x1 convolutions without BN or ReLU (a reading: docs/models.md).
    """

    def __init__(self, levels: Sequence[LevelConv], attend: bool = True, norm: Norm = "batch") -> None:
        super().__init__()
        self.levels = nn.ModuleList(conv_norm_relu(*level, norm=norm) for level in levels)
        self.channels = sum(level.out_channels for level in levels)
        self.attend = attend
        names = "abcd" if attend else "d"
        self.project = nn.ModuleDict({name: nn.Conv2d(self.channels, self.channels, 1) for name in names})

    def attention_map(self, inputs: Sequence[Tensor], queries_Q: Tensor) -> Tensor:
        """Equation 1's s_ij for chosen j: (N, Q, H, W), what each position i gives to each query, 1 in sum.

        queries_Q: positions j, row times W plus column, of the module's own grid. Memory is linear in H x W times Q.
        """
        fused = self._fuse(inputs)
        a_NCHW, b_NCHW = self.project["a"](fused), self.project["b"](fused)
        queries_NCQ = b_NCHW.flatten(2)[:, :, queries_Q]
        scores_NQP = queries_NCQ.transpose(1, 2) @ a_NCHW.flatten(2)
        return scores_NQP.float().softmax(dim=2).unflatten(2, a_NCHW.shape[2:])

    def _fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat([level(x) for level, x in zip(self.levels, inputs, strict=True)], dim=1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        fused = self._fuse(inputs)
        d = self.project["d"](fused)
        if not self.attend:
            return d
        a, b, c = (self.project[name](fused) for name in "abc")
        return spatial_attention(a, b, c) + d
