"""MSANet's attention as the paper writes it, for the benchmarks to compare with."""

from torch import Tensor, nn

from msanet.models.msam import MSAM


def explicit_attention(a_NCHW: Tensor, b_NCHW: Tensor, c_NCHW: Tensor) -> Tensor:
    """Equation 1 as printed: all queries (B) by all keys (A) in memory, N x HW x HW, then the values (C)."""
    scores_NQK = b_NCHW.flatten(2).mT @ a_NCHW.flatten(2)
    return (c_NCHW.flatten(2) @ scores_NQK.softmax(dim=2).mT).reshape(c_NCHW.shape)


def as_written(model: nn.Module) -> nn.Module:
    """The same network with explicit attention in all its modules."""
    for module in model.modules():
        if isinstance(module, MSAM):
            module.attention = explicit_attention
    return model
