"""Exponential moving average of the weights (Polyak and Juditsky 1992), on any ZeRO stage."""

from typing import Any

import torch
from torch import Tensor

from msanet.training.engine import zero_state
from msanet.training.engine.batchnorm_statistics import running_statistics


class EMA:
    """average <- d average + (1 - d) weights after each step, for parameters and floating-point buffers alike.

    The weights that are judged and published, where `trainer.ema_decay` is d. Early, d is smaller: min(d, (1 + n) / (10 + n)) at
    step n, as in TensorFlow's ExponentialMovingAverage, so that the initial weights are forgotten. Each rank keeps what
    it has of the weights: all of them, or its partition at ZeRO stage 3.
    """

    def __init__(self, engine: Any, decay: float, saved: dict[str, Tensor] | None = None) -> None:
        """Begins with the engine's weights, or goes on with what `weights` gave when it was saved."""
        self._engine, self.decay = engine, decay
        self._average = {name: own.detach().clone() for name, own in zero_state.local_weights(engine).items()}
        if saved:
            zero_state.scatter_local(engine, saved, self._average)

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor) -> None:
        """Take in the weights after step `step`, 1-based; not where `skipped`, a scalar on the device, is 1 and not 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current, average = zero_state.local_weights(self._engine), list(self._average.values())
        change = torch._foreach_sub([current[name] for name in self._average], average)
        torch._foreach_mul_(change, (1 - decay) * (1 - skipped))
        torch._foreach_add_(average, change)

    @property
    def running_statistics(self) -> dict[str, Tensor]:
        """The averages, themselves, of what `buffers.running_statistics` finds in the network."""
        return {name: self._average[name] for name in running_statistics(self._engine.module)}

    def weights(self, everywhere: bool = False) -> dict[str, Tensor]:
        """All of a network's weights and buffers, full and on the CPU. A collective.

        On rank 0, and empty on the others; with `everywhere` on all. Running statistics are the rank's own: see `buffers`.
        """
        return zero_state.gather_local(self._engine, self._average, everywhere)
