"""Optimizers as users write them."""

from typing import Any

import torch


class Numbers(torch.optim.Optimizer):
    """Momentum, with Python numbers in its state."""

    def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in (parameter for parameter in group["params"] if parameter.grad is not None):
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0, "bias": 1.0, "mean": torch.zeros_like(parameter)}
                state["step"] += 1
                state["bias"] *= 0.9
                state["mean"].lerp_(parameter.grad, 0.1)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(state["mean"], alpha=-group["lr"] / (1 - state["bias"]) / state["step"] ** 0.1)


class Lists(Numbers):
    """Keeps what no checkpoint can."""

    def step(self, closure: Any = None) -> Any:
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["history"] = [1]


class NormOfTheParameter(torch.optim.SGD):
    """Steps that depend on the whole parameter, as in LARS."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in (parameter for parameter in group["params"] if parameter.grad is not None):
                parameter.grad *= parameter.norm()
        super().step()
