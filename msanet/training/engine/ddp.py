"""`trainer.engine=ddp`: torch's DistributedDataParallel behind the few calls of a DeepSpeed engine that the trainer makes.

It has no ZeRO. Gradients are summed in buckets while the backward pass still runs; they are views of these buckets.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from msanet import distributed
from msanet.config import Config
from msanet.training.engine.loss_scaling import autocast


class _WithUnusedParameter(nn.Module):
    """DDP warns where it is asked to look for unused parameters and finds none; here it is asked for buckets that stay."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network, self.unused = network, nn.Parameter(torch.zeros((), device=device))

    def forward(self, images_NCHW: Tensor) -> Any:
        return self.network(images_NCHW)


class DDPEngine:
    """A network, its optimizer and the mean of the gradients over all ranks, at stage 0 only.

    Args:
        model: On the rank's device, with the same weights on all ranks.
        optimizer: Of its parameters.
        config: Settings of the run.
        accumulation: Micro-batches of a step.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, config: Config, accumulation: int) -> None:
        self.module, self.optimizer, self.device = model, optimizer, distributed.device()
        self._precision, self._max_norm = config.trainer.precision, config.optimizer.clip_grad_norm
        self._accumulation, self._done = accumulation, 0
        self._parallel: DistributedDataParallel | None = None
        if distributed.world_size() > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self._parallel = DistributedDataParallel(
                _WithUnusedParameter(model, self.device),
                device_ids=devices,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                # Without it the buckets are reordered after the first step, and a resumed run adds in another order than before.
                find_unused_parameters=True,
            )

    def __call__(self, images_NCHW: Tensor) -> Any:
        """Forward pass of a micro-batch."""
        with autocast(self.device, "bf16" if self._precision == "bf16" else "fp32"):  # fp16: see `autocast_training`
            if self._parallel is None:
                return self.module(images_NCHW)
            self._parallel.require_backward_grad_sync = self.is_gradient_accumulation_boundary()
            return self._parallel(images_NCHW)

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether this micro-batch is the last one of its step."""
        return self._done + 1 == self._accumulation

    def backward(self, loss: Tensor) -> None:
        """Backward pass of a micro-batch; in the last one of a step, gradients become their mean over ranks and micro-batches."""
        (loss / self._accumulation).backward()

    def step(self) -> None:
        """Update the weights after the last micro-batch of a step."""
        is_last = self.is_gradient_accumulation_boundary()
        self._done = 0 if is_last else self._done + 1
        if not is_last:
            return
        if self._max_norm:
            nn.utils.clip_grad_norm_(self.module.parameters(), self._max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def zero_optimization_stage(self) -> int:
        """0."""
        return 0
