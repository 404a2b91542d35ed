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
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, 1-based."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = engine_state.local_weights(self._engine)
        torch._foreach_lerp_(list(self._average.values()), [current[name] for name in self._average], 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """All of a network's weights and buffers, full and on the CPU. A collective; buffers become the ranks' mean."""
        for name, _ in self._engine.module.named_buffers():
            if name in self._average:
                distributed.all_reduce_sum(self._average[name]).div_(distributed.world_size())
        return engine_state.gather_local(self._engine, self._average)
