"""Optimizer, learning rate and DeepSpeed's JSON, all derived from the run's settings."""

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
    """Groups with a key `lr_factor` for the learning rate: `classifier_lr_mult` for the network's classifiers, else 1."""
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
    "fp16": "trainer.precision (fp16 is not supported, use bf16)",
}


def setting(tree: Any, key: str) -> Any:
    """The value at a dotted key, or None if it is not set."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
