"""MSAM: the fused kernel is the paper's equations 1 and 2, forward and backward."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from msanet.models.msam import MSAM, LevelConv, spatial_attention


def explicit(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Equations 1 and 2 (without + D) as printed: S is N x N, its softmax runs over i, the index of A and C."""
    a_, b_, c_ = (x.flatten(2) for x in (a, b, c))  # (batch, C, N)
    scores = torch.einsum("nci,ncj->nij", a_, b_)
    s = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
    return torch.einsum("nci,nij->ncj", c_, s).reshape(c.shape)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 16, 1, 1), (3, 4, 9, 2)])
def test_attention_equals_the_equations_in_float64(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    inputs = [
        torch.randn(shape, dtype=torch.float64).to(memory_format=memory_format).requires_grad_() for _ in range(3)
    ]
    weight = torch.randn(shape, dtype=torch.float64)
    results = []
    functions: tuple[Callable[..., Tensor], ...] = (explicit, spatial_attention)
    for function in functions:
        output = function(*inputs)
        results.append((output, torch.autograd.grad((output * weight).sum(), inputs)))
    (expected, expected_grads), (output, grads) = results
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-11)


def test_two_positions_by_hand() -> None:
    """A = (0, ln 3), B = (1, 0), C = (10, 20): s_i0 = (1/4, 3/4), s_i1 = (1/2, 1/2)."""
    a = torch.tensor([0.0, torch.log(torch.tensor(3.0))]).view(1, 1, 1, 2)
    b = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    c = torch.tensor([10.0, 20.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(spatial_attention(a, b, c), torch.tensor([17.5, 15.0]).view(1, 1, 1, 2))


def test_the_module_adds_d_and_concatenates_its_levels() -> None:
    torch.manual_seed(0)
    module = MSAM([LevelConv(3, 4, 6, 2, 2), LevelConv(5, 2, 3, 1, 1)]).eval()
    inputs = [torch.randn(2, 3, 12, 16), torch.randn(2, 5, 6, 8)]
    fused = torch.cat([level(x) for level, x in zip(module.levels, inputs, strict=True)], 1)
    a, b, c, d = (module.project[name](fused) for name in "abcd")
    torch.testing.assert_close(module(inputs), explicit(a, b, c) + d)
    assert module(inputs).shape == (2, 6, 6, 8)


def test_without_attention_the_module_is_d_alone() -> None:
    module = MSAM([LevelConv(3, 4, 3, 1, 1)], attend=False)
    assert set(module.project) == {"d"}
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(module([x]), module.project["d"](module.levels[0](x)))
