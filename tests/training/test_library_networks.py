"""Networks of libraries in the engine: every ZeRO stage trains them alike, and resumes them to the last bit."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from msanet import distributed
from msanet.config import Config, parse_config
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.checkpoint.io import write_checkpoint
from support.library_networks import SOLID, is_installed
from support.ranks import run_ranks
from support.small_runs import newest, run_steps, start

PARTS = 3
"""Of the networks, each on ranks of its own."""


def settings(shards: str, network: str, options: dict[str, Any], stage: int, **trainer: Any) -> Config:
    """3 steps of 4 images with EMA and synchronized BatchNorm; at stages 1 and 3 activations are recomputed."""
    return parse_config(
        {
            "data": {"path": shards, "crop": [64, 64], "num_workers": 0},
            "model": {"name": network, **options},
            "optimizer": {"name": "sgd", "lr": 0.01, "classifier_lr_mult": 3.0},
            "trainer": {
                "steps": 3,
                "global_batch_size": 4,
                "zero_stage": stage,
                "ema_decay": 0.9,
                "sync_batchnorm": True,
                "activation_checkpointing": stage > 0,
                "channels_last": False,  # at stage 0 alone the weights would be, and dropout draws in memory order
                **trainer,
            },
            "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 1000}} if stage == 3 else {},
        },
        "test",
    )


def _train_all(shards: str, folder: str, part: int) -> None:
    """Every network at its stages: a step; at the second of them two, and the second again from a checkpoint of the first."""
    for number, (name, (network, options, without_gradient)) in enumerate(chosen(part).items()):
        stages = (0, 3, 1) if without_gradient else ((0, 1, 3) if number % 2 else (0, 3))
        updates = []
        for stage in stages:
            config = settings(shards, network, options, stage)
            trainer = start(config)
            frozen = {key for key, p in trainer.engine.module.named_parameters() if not p.requires_grad}
            assert len(frozen) == without_gradient, f"{name}: {frozen}"
            if stage == 0:
                initial = trainer.checkpoint()  # the same at all stages
            run_steps(trainer, 1)
            first, place = trainer.checkpoint(), Path(folder) / f"{name}-{stage}"
            if distributed.is_main():
                updates.append(_update(name, initial, first, trainer.engine.module, frozen))
            if stage == stages[1]:
                distributed.on_main(partial(write_checkpoint, place, first, keep=1))
                run_steps(trainer, 1)
                resumed = start(config, newest(place))
                run_steps(resumed, 1)
                straight, again = trainer.checkpoint(), resumed.checkpoint()
                if distributed.is_main():
                    _require_the_same(f"{name} at stage {stage}", straight, again)
        for stage, update in zip(stages, updates, strict=False):
            difference = float((update - updates[0]).norm() / updates[0].norm())
            assert difference < 1e-3, (
                f"{name} at stages 0 and {stage}: updates differ by {difference:.2g} of their size"
            )
        print(f"trained {name}", flush=True)


def _update(name: str, initial: Checkpoint, first: Checkpoint, network: nn.Module, frozen: set[str]) -> torch.Tensor:
    """What a step changed, all but the frozen parameters, as a vector."""
    names = [key for key, _ in network.named_parameters()]
    changes = {key: (first.weights[key] - initial.weights[key]).flatten() for key in names}
    assert not any(changes[key].any() for key in frozen), name
    moved = [key for key in names if changes[key].any()]
    assert len(moved) > 0.7 * (len(names) - len(frozen)), f"{name}: {set(names) - frozen - set(moved)}"
    vector = torch.cat([changes[key] for key in names])
    assert vector.isfinite().all(), name
    return vector


def _require_the_same(what: str, straight: Checkpoint, again: Checkpoint) -> None:
    assert straight.ema and again.ema and straight.state == again.state
    for one, other in ((straight.weights, again.weights), (straight.ema, again.ema), (straight.buffers, again.buffers)):
        different = [key for key in one if not torch.equal(one[key], other[key])]
        assert one.keys() == other.keys() and not different, f"{what}: {different[:5]}"


def chosen(part: int) -> dict[str, tuple[str, dict[str, Any], int]]:
    """A part of those of installed libraries, without the three that resemble others most."""
    found = {name: case for name, case in SOLID.items() if is_installed(case[0])}
    names = [name for name in found if name not in ("unetplusplus", "deeplabv3", "timm-efficientnet")]
    return {name: found[name] for name in names[part::PARTS]}


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_every_stage_trains_alike_and_resumes_to_the_last_bit(part: int, shards: Path, tmp_path: Path) -> None:
    """Two ranks, EMA, synchronized BatchNorm, recomputed activations, parameters without a gradient."""
    arguments = {"shards": str(shards), "folder": str(tmp_path), "part": part}
    outputs = run_ranks(2, __file__, "_train_all", arguments, timeout=600)
    assert all(f"trained {name}\n" in outputs[0] for name in chosen(part))
