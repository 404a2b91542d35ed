"""Optimizer, learning rate and what DeepSpeed is told; all derived from the run's config."""

import math
from typing import Any

import torch
from torch import nn

from msanet.config import Config, OptimizerConfig, ScheduleConfig
from msanet.data.loader import BatchPlan
from msanet.errors import UserError
from msanet.models.network import SegmentationNetwork


def build_optimizer(model: SegmentationNetwork, config: OptimizerConfig) -> torch.optim.Optimizer:
    """torch's own Adam, AdamW or SGD: DeepSpeed's `Adam` would silently be AdamW and compile a C++ extension on CPUs.

    Fused, since only then a step can be skipped without asking the device first (see `NonFiniteGuard`).
    """
    parameters = parameter_groups(model, config.classifier_lr_mult)
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, betas=config.betas, **common)
        case "adamw":
            return torch.optim.AdamW(parameters, betas=config.betas, **common)
        case "sgd":
            return torch.optim.SGD(parameters, momentum=config.momentum, **common)


def parameter_groups(model: SegmentationNetwork, classifier_lr_mult: float) -> list[dict[str, Any]]:
    """Groups with a key `lr_factor`, to be multiplied into each step's learning rate; one group where all are alike.

    classifier_lr_mult: of the parameters under the network's `classifier_names`; all others have 1.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    prefixes = tuple(f"{name}." for name in model.classifier_names)
    for name, parameter in model.named_parameters():
        groups.setdefault(classifier_lr_mult if name.startswith(prefixes) else 1.0, []).append(parameter)
    return [{"params": parameters, "lr_factor": factor} for factor, parameters in sorted(groups.items())]


def learning_rate(step: int, total_steps: int, base: float, schedule: ScheduleConfig) -> float:
    """Learning rate of step `step` (0-based). A function of the step alone, so that a resume has nothing to restore.

    poly: base (1 - step / total)^power (MSANet section 4.2). step: base gamma^(step // every) (Attention to Scale).
    """
    warm = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    match schedule.name:
        case "poly":
            return base * warm * (1 - step / total_steps) ** schedule.power
        case "step":
            return base * warm * schedule.gamma ** (step // schedule.decay_every_steps)
        case "constant":
            return base * warm


def total_steps(config: Config, num_samples: int) -> int:
    """Optimizer steps of the whole run: `trainer.steps`, or enough to see every sample `epochs` times."""
    trainer = config.trainer
    return trainer.steps or math.ceil(trainer.epochs * num_samples / trainer.global_batch_size)


def bucket_size(config: Config, parameters: int) -> int:
    """Elements of each of ZeRO's buffers for gradients: those of the network, unless the user's own setting says otherwise.

    DeepSpeed's default is made for billions of parameters: 500 million elements, 2 to 4 GB a rank.
    """
    own = config.deepspeed.get("zero_optimization")
    size = own.get("reduce_bucket_size") if isinstance(own, dict) else None
    return int(size) if isinstance(size, int | float) else parameters


def deepspeed_config(config: Config, batches: BatchPlan, parameters: int) -> dict[str, Any]:
    """DeepSpeed's JSON: the user's own settings under what our config decides. Raises UserError where both decide.

    parameters: how many the network has.
    """
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
    own = config.deepspeed
    for key, setting in _DECIDED_HERE.items():
        section, _, name = key.partition(".")
        value = own.get(section)
        value = value.get(name) if name and isinstance(value, dict) else (None if name else value)
        ours = derived.get(section)
        ours = ours.get(name) if name and isinstance(ours, dict) else ours
        if value not in (None, "auto", ours):
            raise UserError(
                "MSA-TRAIN-010",
                f"deepspeed.{key} is {value!r}, but this is decided by {setting}; remove it and set {setting}",
                setting=f"deepspeed.{key}",
            )
    return _merge(own, derived)


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
    "fp16": "trainer.precision (fp16 is not supported, use bf16)",
}


def _merge(own: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    merged = {**own, **derived}
    for key, value in derived.items():
        if isinstance(value, dict) and isinstance(own.get(key), dict):
            merged[key] = {**own[key], **value}
    return merged
