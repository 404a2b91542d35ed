"""How a device computes: TF32, whether cuDNN measures its algorithms, order of memory. Set here and nowhere else."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from msanet.config import Config, TrainerConfig
from msanet.models.attention.kernels import unlogged_choices

logger = logging.getLogger(__name__)


def apply_device_settings(config: Config) -> None:
    """Set TF32, and cuDNN's benchmark if all images have one size, since it measures each size."""
    torch.backends.cuda.matmul.allow_tf32 = config.trainer.tf32
    torch.backends.cudnn.allow_tf32 = config.trainer.tf32
    torch.backends.cudnn.benchmark = config.data.fixed_size


def set_memory_format(model: nn.Module, config: TrainerConfig) -> None:
    """Bring weights and inputs into the memory format of the settings; from stage 1 on the weights are in DeepSpeed's buffers."""
    if not config.channels_last:
        model.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    elif config.zero_stage == 0:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def log_attention_kernels() -> None:
    """Log the kernels that attention has chosen, and their times. On CPUs there is no choice."""
    for sentence in unlogged_choices():
        if torch.cuda.is_available():
            logger.info(sentence)


@contextmanager
def without_cudnn_benchmark() -> Iterator[None]:
    """In it cuDNN measures nothing, as in a validation on whole images."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
