"""Exponential moving average of the weights (Polyak and Juditsky 1992), on any ZeRO stage."""

from typing import Any

import torch
from torch import Tensor

from msanet import distributed
from msanet.training import engine_state


class WeightAverage:
    """average <- d average + (1 - d) weights after each step, for parameters and floating-point buffers alike.

    The weights that are judged and published, where `trainer.ema` is d. Early, d is smaller: min(d, (1 + n) / (10 + n)) at
    step n, as in TensorFlow's ExponentialMovingAverage, so that the initial weights are forgotten. Each rank keeps what
    it has of the weights: all of them, or its partition at ZeRO stage 3.
    """

    def __init__(self, engine: Any, decay: float, saved: dict[str, Tensor] | None = None) -> None:
        """Begins with the engine's weights, or goes on with what `weights` gave when it was saved."""
        self._engine, self.decay = engine, decay
        self._average = {name: own.detach().clone() for name, own in engine_state.local_weights(engine).items()}
        if saved:
            engine_state.scatter_local(engine, saved, self._average)

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor) -> None:
        """Take in the weights after step `step`, 1-based; not where `skipped`, a scalar on the device, is 1 and not 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current, average = engine_state.local_weights(self._engine), list(self._average.values())
        change = torch._foreach_sub([current[name] for name in self._average], average)
        torch._foreach_mul_(change, (1 - decay) * (1 - skipped))
        torch._foreach_add_(average, change)

    def weights(self, everywhere: bool = False) -> dict[str, Tensor]:
        """All of a network's weights and buffers, full and on the CPU. A collective; buffers become the ranks' mean.

        On rank 0, and empty on the others; with `everywhere` on all.
        """
        for name, _ in self._engine.module.named_buffers():
            if name in self._average:
                distributed.all_reduce_sum(self._average[name]).div_(distributed.world_size())
        return engine_state.gather_local(self._engine, self._average, everywhere)
