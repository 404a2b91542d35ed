"""Work that a rank is spared: calculating with subnormal numbers on CPUs, and sums over one rank."""

from pathlib import Path

import torch

from support.ranks import run_ranks
from support.small_runs import run_steps, small_config, start

SMALL, SMALLER = 1e-38, 1e-3
"""Their product is subnormal in float32, whose smallest normal number is 1.2e-38."""


def _one_rank(shards: str) -> None:
    torch.set_num_threads(2)
    for count in (4, 1 << 20):  # in this thread, and in those it starts
        x = torch.full((count,), SMALLER, requires_grad=True)
        product = x * SMALL
        product.backward(torch.full((count,), SMALLER))
        assert x.grad is not None
        print(int(product.count_nonzero()), int(x.grad.count_nonzero()))

    trainer = start(small_config(shards, stage=0))
    sums: list[None] = []
    trainer.engine.allreduce_gradients = lambda *_, **__: sums.append(None)
    before = [parameter.clone() for parameter in trainer.engine.module.parameters()]
    run_steps(trainer, 1)
    assert all(not torch.equal(a, b) for a, b in zip(before, trainer.engine.module.parameters(), strict=True))
    print(len(sums))


def test_one_rank_has_no_subnormal_numbers_and_adds_up_nothing(shards: Path) -> None:
    assert torch.full((4,), SMALLER).mul(SMALL).count_nonzero() == 4
    (said,) = run_ranks(1, __file__, "_one_rank", {"shards": str(shards)})
    assert said.split()[:5] == ["0"] * 5, said
