"""`trainer.precision=fp16`: autocast to float16 with dynamic loss scaling (Micikevicius et al. 2018), on the device alone.

DeepSpeed's own way steps a GradScaler once for each of ZeRO's groups, which updates the scale as often, and knows nothing of
`NonFiniteGuard`; so it hears nothing of float16 here: gradients are scaled and unscaled around it, in float32.
"""

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from msanet.training.engine import zero_state

_FIRST, _GROWTH_INTERVAL = 2.0**16, 2000
"""Those of torch's GradScaler: it halves the scale after a step that is not finite, and doubles it after so many that are."""


class LossScale(BaseModel):
    """Of trainer.precision=fp16: the factor on the loss, and the steps since it changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float
    good_steps: int


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """The context of the forward pass, by trainer.precision; it does nothing for fp32."""
    kind = torch.device(device).type
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(kind, dtype, enabled=precision != "fp32")


def autocast_training(model: nn.Module, device: torch.device) -> None:
    """From now on the model's forward pass is in float16 in training mode; a validation's is as evaluation.precision says.

    Inside of the model, since DeepSpeed turns off an autocast around its engine that it was not told of.
    """
    forward = model.forward

    def autocast_forward(image_NCHW: Tensor) -> Any:
        with autocast(device, "fp16" if model.training else "fp32"):
            return forward(image_NCHW)

    model.forward = autocast_forward


class LossScaler:
    """A power of two, by which losses are multiplied before the backward pass and gradients are divided after it, exactly.

    The smallest scale is 1: a network that overflows even then is not helped by less.
    """

    def __init__(self, device: torch.device, saved: LossScale | None = None) -> None:
        saved = saved or LossScale(scale=_FIRST, good_steps=0)
        self.scale = torch.tensor(saved.scale, dtype=torch.float32, device=device)
        self._good_steps = torch.tensor(float(saved.good_steps), device=device)

    def unscale(self, engine: Any) -> None:
        """Divide the gradients that the optimizer steps on: after the last backward pass, before anything looks at them."""
        gradients = zero_state.local_gradients(engine)
        if gradients:
            torch._foreach_mul_(gradients, self.scale.reciprocal())

    def update(self, skipped: Tensor) -> None:
        """After a step. skipped: 1 if it was not finite; a scalar on the device, so that the host does not wait."""
        good_steps = (self._good_steps + 1) * (1 - skipped)
        grows = good_steps >= _GROWTH_INTERVAL
        self.scale = torch.where(skipped > 0, self.scale / 2, torch.where(grows, self.scale * 2, self.scale)).clamp(
            min=1
        )
        self._good_steps = torch.where(grows, 0, good_steps)

    def state(self) -> LossScale:
        """For a checkpoint; waits for the device."""
        return LossScale(scale=float(self.scale), good_steps=int(self._good_steps))
