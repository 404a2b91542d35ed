"""Optimizer, learning rate and DeepSpeed's JSON, all derived from the run's settings."""

import logging
import math
from typing import Any

import torch

from msanet.config import Config, OptimizerConfig, ScheduleConfig
from msanet.data.loader import BatchPlan
from msanet.errors import UserError
from msanet.models.network import SegmentationNetwork
from msanet.training.engine.other_optimizers import (
    FUSED,
    build_other_optimizer,
    constructor_arguments,
    optimizer_class,
    refused_optimizer,
)
from msanet.training.engine.parameter_groups import parameter_groups

logger = logging.getLogger(__name__)


def build_optimizer(model: SegmentationNetwork, config: OptimizerConfig, zero_stage: int = 0) -> torch.optim.Optimizer:
    """torch's own optimizers: DeepSpeed's `Adam` would silently be AdamW and compile a C++ extension on CPUs.

    Adam, AdamW and SGD are fused, since only then a step can be skipped without asking the device first (see
    `NonFiniteGuard`); others ask, once a step.

    Raises:
        UserError: There is no such optimizer or option, or it does not work at this ZeRO stage.
    """
    groups = parameter_groups(model, config)
    if config.name not in FUSED:
        optimizer = build_other_optimizer(groups, config, zero_stage, groups[0]["params"][0].device)
        logger.info(
            f"optimizer {config.name} is not fused: each step waits for the device before it changes the weights"
        )
        return optimizer
    arguments: dict[str, Any] = {**constructor_arguments(config), "fused": True}
    own = {"momentum": config.momentum} if config.name == "sgd" else {"betas": config.betas}
    try:
        return optimizer_class(config.name)(groups, **own, **arguments)
    except (ValueError, RuntimeError) as error:  # such as of two options that exclude each other
        raise refused_optimizer(config, error) from error


def optimizer_label(config: OptimizerConfig) -> str:
    """The optimizer's name with its options, if any: what a checkpoint's optimizer state belongs to."""
    options = ", ".join(f"{key}={value}" for key, value in sorted(config.options.items()))
    return f"{config.name}({options})" if options else config.name


def learning_rate(step: int, total_steps: int, base: float, schedule: ScheduleConfig) -> float:
    """Learning rate of step `step` (0-based). A function of the step alone, so that a resume has nothing to restore."""
    warm = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    return base * warm * _schedule_factor(step, total_steps, schedule)


def _schedule_factor(step: int, total_steps: int, schedule: ScheduleConfig) -> float:
    """poly: MSANet section 4.2. step: Attention to Scale section 4. cosine: Loshchilov and Hutter 2017, without restarts.

    one_cycle: Smith and Topin 2018, as torch's OneCycleLR. wsd: warm-up, stable, decay (Hu et al. 2024, MiniCPM).
    """
    lowest = schedule.min_lr_mult
    match schedule.name:
        case "poly":
            return (1 - step / total_steps) ** schedule.power
        case "step":
            return schedule.gamma ** (step // schedule.decay_every_steps)
        case "constant":
            return 1.0
        case "cosine":
            return _cosine(1.0, lowest, step / total_steps)
        case "one_cycle":
            start, top = 1 / schedule.div_factor, schedule.pct_start * total_steps - 1
            if step < top:
                return _cosine(start, 1.0, step / top)
            return _cosine(1.0, start / schedule.final_div_factor, (step - top) / (total_steps - 1 - top))
        case "wsd":
            decaying = schedule.decay_fraction * total_steps
            done = max(0.0, step - (total_steps - decaying)) / decaying
            return 1 - (1 - lowest) * done


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine wave from start to end, by the share of the way."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def total_steps(config: Config, num_samples: int) -> int:
    """Optimizer steps of the whole run: `trainer.steps`, or enough to see every sample `epochs` times."""
    trainer = config.trainer
    return trainer.steps or math.ceil(trainer.epochs * num_samples / trainer.global_batch_size)


def bucket_size(config: Config, parameters: int) -> int:
    """Elements of each of ZeRO's buffers for gradients. DeepSpeed's default is for billions of parameters: 2 to 4 GB a rank."""
    size = setting(config.deepspeed, "zero_optimization.reduce_bucket_size")
    return int(size) if isinstance(size, int | float) else parameters


def deepspeed_config(config: Config, batches: BatchPlan, parameters: int) -> dict[str, Any]:
    """DeepSpeed's JSON: the section deepspeed, and what other settings decide. Raises UserError if both decide the same."""
    derived: dict[str, Any] = {
        # DeepSpeed's word for the product of the other two and the ranks, of which several may have the same images
        "train_batch_size": batches.global_batch_size * batches.context_parallel_size,
        "train_micro_batch_size_per_gpu": batches.micro_batch_size,
        "gradient_accumulation_steps": batches.accumulation,
        "gradient_clipping": config.optimizer.clip_grad_norm,
        "zero_optimization": {
            "stage": config.trainer.zero_stage,
            "reduce_bucket_size": bucket_size(config, parameters),
        },
        "zero_allow_untested_optimizer": True,  # SGD; ours are torch's own, tested in tests/training
        "torch_autocast": {"enabled": config.trainer.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 2**31,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device twice in each micro-batch
    }
    if config.trainer.precision == "fp16" and setting(config.deepspeed, "zero_optimization.offload_optimizer"):
        raise UserError(
            "MSA-TRAIN-660",
            "trainer.precision=fp16 with deepspeed.zero_optimization.offload_optimizer would clip gradients by a norm from "
            "before they are unscaled; remove one of the two, or set trainer.precision=bf16",
            setting="trainer.precision",
        )
    for key, decided_by in _DECIDED_HERE.items():
        own, ours = setting(config.deepspeed, key), setting(derived, key)
        if own not in (None, "auto", ours):
            raise UserError(
                "MSA-TRAIN-010",
                f"deepspeed.{key} is {own!r}, but this is decided by {decided_by}; remove it and set {decided_by}",
                setting=f"deepspeed.{key}",
            )
    for section, own in config.deepspeed.items():
        ours = derived.get(section, own)
        derived[section] = {**own, **ours} if isinstance(own, dict) and isinstance(ours, dict) else ours
    return derived


_DECIDED_HERE = {
    "train_batch_size": "trainer.global_batch_size",
    "train_micro_batch_size_per_gpu": "trainer.micro_batch_size",
    "gradient_accumulation_steps": "trainer.global_batch_size and trainer.micro_batch_size",
    "gradient_clipping": "optimizer.clip_grad_norm",
    "zero_optimization.stage": "trainer.zero_stage",
    "optimizer": "the section optimizer",
    "scheduler": "the section schedule",
    "torch_autocast": "trainer.precision",
    "bf16": "trainer.precision (DeepSpeed's bf16 mode breaks BatchNorm)",
    "fp16": "trainer.precision",
}


def setting(tree: Any, key: str) -> Any:
    """The value at a dotted key, or None if it is not set."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
