"""Equation 1 of the MSANet paper (section 3.2): exact, by the fastest kernel that fits, and two approximations of it."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.nn import functional as F

from msanet.errors import UserError
from msanet.models.attention.kernels import KERNELS, attend_untimed, choose


def attend(query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> Tensor:
    """softmax(Q K^T) V, exact, one head, scale 1: (N, L, C).

    The kernel is `choose`'s; in a graph (export, torch.compile) and on tensors without values `attend_untimed`. Autocast casts
    as for `scaled_dot_product_attention`.
    """
    query, key, value = (_rows(x) for x in (query_NLC, key_NSC, value_NSC))
    if torch.compiler.is_compiling() or is_fake(query) or query.is_meta or not query.numel():
        return attend_untimed(query, key, value)
    kind = query.device.type
    if torch.is_autocast_enabled(kind) and query.dtype != torch.float64:
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    return KERNELS[choose(query, key, value)](query, key, value)


def spatial_attention(a_NCHW: Tensor, b_NCHW: Tensor, c_NCHW: Tensor, pool: int = 1, window: int = 0) -> Tensor:
    """sum_i C_i s_ij with s_ij = exp(A_i . B_j) / sum_i exp(A_i . B_j); all (N, C, H, W), i and j run over H x W.

    Equation 1's softmax runs over i, the index of A and C: scaled dot-product attention with query B, key A, value C, one head,
    scale 1 (the paper has no 1/sqrt(d)). The HW x HW map is never held. See docs/decisions/0013.

    Exact with pool 1 and window 0. Approximations: pool averages A and C over pool x pool positions, fewer at the ends; window
    restricts i to windows of a fixed grid, smaller at the ends. window is a multiple of pool.
    """
    a, c = pooled(a_NCHW, pool), pooled(c_NCHW, pool)
    if not window:
        attended_NLC = attend(positions(b_NCHW), positions(a), positions(c))
        return attended_NLC.transpose(1, 2).reshape(b_NCHW.shape)
    if torch.compiler.is_exporting() and isinstance(b_NCHW.shape[2], torch.SymInt):
        raise UserError(
            "MSA-MODEL-020",
            "a network with model.attention_window cannot be exported for images of any size, expected one size; set --size",
            setting="--size",
        )
    bands = []
    for rows in _bands(b_NCHW.shape[2], window):
        parts = []
        for columns in _bands(b_NCHW.shape[3], window):
            cells = (..., _cells(rows, pool), _cells(columns, pool))
            parts.append(_in_windows(a[cells], b_NCHW[..., rows, columns], c[cells], window, pool))
        bands.append(torch.cat(parts, dim=3))
    return torch.cat(bands, dim=2)


def attention_weights(a_NCHW: Tensor, b_NCHW: Tensor, queries_Q: Tensor, pool: int = 1, window: int = 0) -> Tensor:
    """The weights s_ij of `spatial_attention` for chosen j: (N, Q, H, W) float32, with sum 1.

    queries_Q: positions j, row times W plus column. Memory is linear in H x W times Q.
    """
    height, width = a_NCHW.shape[2:]
    keys = pooled(a_NCHW, pool)
    with torch.autocast(a_NCHW.device.type, enabled=False):  # its product would be rounded, unlike a kernel's scores
        scores_NQP = b_NCHW.flatten(2)[:, :, queries_Q].transpose(1, 2).float() @ keys.flatten(2).float()
    scores = scores_NQP.unflatten(2, keys.shape[2:])
    if window:
        row, column = (torch.arange(size, device=scores.device) * pool // window for size in keys.shape[2:])
        is_row = row == (queries_Q // width // window)[:, None]
        is_column = column == (queries_Q % width // window)[:, None]
        scores = scores.masked_fill(~(is_row[:, :, None] & is_column[:, None]), -torch.inf)
    weights = scores.flatten(2).softmax(dim=2).view_as(scores)
    if pool == 1:
        return weights
    weights = weights / F.avg_pool2d(weights.new_ones(1, 1, height, width), pool, ceil_mode=True, divisor_override=1)
    return weights.repeat_interleave(pool, 2).repeat_interleave(pool, 3)[..., :height, :width]


def pooled(x_NCHW: Tensor, pool: int) -> Tensor:
    """Averages over pool x pool positions, fewer at the ends."""
    return x_NCHW if pool == 1 else F.avg_pool2d(x_NCHW, pool, ceil_mode=True, count_include_pad=False)


def positions(x_NCHW: Tensor) -> Tensor:
    """A map as contiguous rows of channels, (N, H x W, C): free in channels_last, and 2.6 to 4.0 times as fast as strided."""
    return x_NCHW.flatten(2).transpose(1, 2).contiguous()


def _rows(x_NLC: Tensor) -> Tensor:
    """With contiguous rows, as fused kernels need them; `contiguous` ignores the stride of a single channel."""
    return x_NLC if x_NLC.stride(-1) == 1 else x_NLC.clone(memory_format=torch.contiguous_format)


def _in_windows(a_NCHW: Tensor, b_NCHW: Tensor, c_NCHW: Tensor, window: int, pool: int) -> Tensor:
    """Attention within windows that fill the map; along an axis that is shorter than a window, within the axis."""
    batch, channels, height, width = b_NCHW.shape
    h, w = min(window, height), min(window, width)
    key, value = (_windows(x, window // pool) for x in (a_NCHW, c_NCHW))
    parts = attend(_windows(b_NCHW, window), key, value).view(batch, height // h, width // w, h, w, channels)
    return parts.permute(0, 5, 1, 3, 2, 4).reshape(b_NCHW.shape)


def _windows(x_NCHW: Tensor, side: int) -> Tensor:
    """(N x windows, positions of a window, C)."""
    h, w = min(side, x_NCHW.shape[2]), min(side, x_NCHW.shape[3])
    parts = x_NCHW.unflatten(2, (-1, h)).unflatten(4, (-1, w))  # (N, C, rows, h, columns, w)
    return parts.permute(0, 2, 4, 3, 5, 1).reshape(-1, h * w, x_NCHW.shape[1])


def _bands(size: int, window: int) -> Iterator[slice]:
    """The part of an axis that full windows cover, and the rest, if not empty."""
    covered = size - size % window
    if covered:
        yield slice(0, covered)
    if covered < size:
        yield slice(covered, size)


def _cells(band: slice, pool: int) -> slice:
    return slice(band.start // pool, -(-band.stop // pool))
