"""Exponential moving average of the weights (Polyak and Juditsky 1992), on any ZeRO stage."""

from typing import Any

import torch
from torch import Tensor

from msanet.training.engine import zero_state
from msanet.training.engine.batchnorm_statistics import running_statistics


class EMA:
    """average <- d average + (1 - d) weights after each step, for parameters and floating-point buffers alike.

    Evaluated and published instead of the weights, if `trainer.ema_decay` is d. In step n d is at most (1 + n) / (10 + n), as in
    TensorFlow's ExponentialMovingAverage, so that the initial weights are forgotten. Each rank keeps what it has of the
    weights: all of them, or its partition at ZeRO stage 3.
    """

    def __init__(self, engine: Any, decay: float, saved: dict[str, Tensor] | None = None) -> None:
        """Begins with the engine's weights, or with `saved` ones."""
        self._engine, self.decay = engine, decay
        self._average = {name: own.detach().clone() for name, own in zero_state.local_weights(engine).items()}
        if saved:
            zero_state.scatter_local(engine, saved, self._average)

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor) -> None:
        """Update by the weights after step `step`, 1-based, unless `skipped`, a scalar on the device, is 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current, average = zero_state.local_weights(self._engine), list(self._average.values())
        change = torch._foreach_sub([current[name] for name in self._average], average)
        torch._foreach_mul_(change, (1 - decay) * (1 - skipped))
        torch._foreach_add_(average, change)

    @property
    def running_statistics(self) -> dict[str, Tensor]:
        """The averages of the network's running statistics, not copies."""
        return {name: self._average[name] for name in running_statistics(self._engine.module)}

    def weights(self, everywhere: bool = False) -> dict[str, Tensor]:
        """As `zero_state.gather_weights`, of the average. Running statistics are the rank's own. A collective."""
        return zero_state.gather_weights(self._engine, self._average, everywhere)
