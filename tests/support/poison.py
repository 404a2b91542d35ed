"""A small training whose numbers can be made to go wrong; what tests of skipped steps and of their replay share."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msanet import distributed
from msanet.config import Config, parse_config
from msanet.data.loader import plan_batches
from msanet.data.manifest import load_manifest
from msanet.models import build_model
from msanet.training.trainer import Trainer

STEPS = 6


class PoisonedGradient(torch.autograd.Function):
    """The identity, whose gradient is infinite for the first image."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy.index_fill(0, torch.zeros(1, dtype=torch.long), math.inf)


def small_config(shards: str, optimizer: dict[str, Any] | None = None, **trainer: Any) -> Config:
    """Six steps of 8 images in micro-batches of 2; `trainer` are further settings of that section."""
    return parse_config(
        {
            "data": {"path": shards, "crop": [32, 32], "num_workers": 0},
            "model": {"name": "unet", "width": 0.05},
            "optimizer": optimizer or {"weight_decay": 0.01},
            "trainer": {"steps": STEPS, "global_batch_size": 8, "micro_batch_size": 2, **trainer},
        },
        "test",
    )


def start(config: Config) -> Trainer:
    """A new run of these settings, on every rank."""
    manifest = load_manifest(Path(config.data.source))
    torch.manual_seed(0)
    model = build_model(config.model.name, manifest.num_classes, **config.model.options)
    trainer = config.trainer
    batches = plan_batches(trainer.global_batch_size, trainer.micro_batch_size, distributed.world_size())
    return Trainer(config, manifest, model, batches, None)
