"""Trainings of a few steps, a step at a time, on the `shards` fixture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from msanet import distributed
from msanet.config import Config, parse_config
from msanet.data.loader import plan_batches
from msanet.data.manifest import load_manifest
from msanet.data.shard_source import ShardSource
from msanet.data.shuffle_order import ShuffleConfig
from msanet.evaluation.result import EvaluationResult
from msanet.models import build_model
from msanet.models.io import ModelMetadata
from msanet.training import validation
from msanet.training.checkpoint.format import Checkpoint, RunState
from msanet.training.checkpoint.io import latest_valid, read_checkpoint
from msanet.training.network import build_network
from msanet.training.trainer import Trainer

PLAN = ShuffleConfig(seed=0, streams=4, shuffle_window=64, shuffle_block_bytes=100)


def small_config(shards: str, stage: int | Literal["ddp"], network: str = "msanet", **optimizer: Any) -> Config:
    """8 steps of 6 images: they cross the end of an epoch of 26. stage: of ZeRO, or DistributedDataParallel."""
    engine = {"engine": stage} if stage == "ddp" else {"zero_stage": stage}
    return parse_config(
        {
            "data": {
                "path": shards,
                "crop": [32, 32],
                "random_scale": [0.7, 1.3],
                "flip_vertical": 0.5,
                "num_workers": 0,
            },
            "model": {"name": network, **({} if ":" in network else {"width": 0.125})},
            "optimizer": {"weight_decay": 0.01, "classifier_lr_mult": 3.0, **optimizer},
            "trainer": {"steps": 8, "global_batch_size": 6, "ema_decay": 0.9, **engine},
            "evaluation": {"num_workers": 0, "panels": 0},
        },
        "test",
    )


def start(config: Config, saved: Checkpoint | None = None) -> Trainer:
    manifest = load_manifest(Path(config.data.source))
    batches = plan_batches(config.trainer.global_batch_size, config.trainer.micro_batch_size, distributed.world_size())
    torch.manual_seed(config.run.seed)
    model = build_network(config, manifest.num_classes)
    return Trainer(config, manifest, model, batches, saved)


def run_steps(trainer: Trainer, count: int) -> list[tuple[int, int]]:
    """Train and return the (epoch, sample) of this rank in order."""
    seen = []
    stream = trainer.global_batches()
    for _ in range(count):
        micro_batches = next(stream)
        trainer.train_step(micro_batches)
        for batch in micro_batches:
            seen += list(zip(batch.epochs_N.tolist(), batch.samples_N.tolist(), strict=True))
    return seen


def validate(
    trainer: Trainer, source: ShardSource, should_stop: Callable[[], bool] | None = None
) -> EvaluationResult | None:
    """A validation as msanet.training.train does it."""
    return validation.validate(trainer.engine, trainer.ema, trainer.state, source, trainer.config, should_stop)


def newest(folder: Path) -> Checkpoint:
    """What the newest complete checkpoint in `folder` holds."""
    path = latest_valid(folder)
    assert path is not None
    return read_checkpoint(path)


def toy_checkpoint(step: int = 3) -> Checkpoint:
    """A complete checkpoint of a small network that has seen nothing."""
    torch.manual_seed(step)
    model = build_model("msanet", 2, width=0.125)
    metadata = ModelMetadata(
        name="msanet",
        options={"width": 0.125},
        dataset="toy",
        dataset_digest="d" * 64,
        classes=("a", "b"),
        palette=((0, 0, 0), (1, 1, 1)),
        ids=(7, 8),
        mean=(1, 2, 3),
        std=(4, 5, 6),
        resize=None,
        step=step,
    )
    state = RunState(
        step=step,
        consumed_samples=step * 4,
        total_steps=9,
        shuffle=PLAN,
        world_size=1,
        dataset="toy",
        dataset_digest="d" * 64,
        optimizer="adam",
        versions={},
    )
    moments = {n: {"step": torch.tensor(3.0), "exp_avg": torch.randn_like(p)} for n, p in model.named_parameters()}
    return Checkpoint(state, metadata, dict(model.state_dict()), moments, {"0.cpu": torch.get_rng_state()})
