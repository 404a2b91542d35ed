"""Numbers too small for full precision count as zero on CPUs, where attention takes ten times as long with them."""

import torch
from ranks import run_ranks

SMALL, SMALLER = 1e-38, 1e-3
"""Their product is subnormal in float32, whose smallest normal number is 1.2e-38."""


def _multiply() -> None:
    torch.set_num_threads(2)
    for count in (4, 1 << 20):  # in this thread, and in those it starts
        x = torch.full((count,), SMALLER, requires_grad=True)
        product = x * SMALL
        product.backward(torch.full((count,), SMALLER))
        assert x.grad is not None
        print(int(product.count_nonzero()), int(x.grad.count_nonzero()))


def test_subnormal_numbers_are_zero_in_a_rank() -> None:
    assert torch.full((4,), SMALLER).mul(SMALL).count_nonzero() == 4
    (said,) = run_ranks(1, __file__, "_multiply", {})
    assert said.split() == ["0"] * 4
