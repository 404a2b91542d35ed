"""4 steps, a resume and 4 more are 8 steps: weights, optimizer, schedule, generators and stream position continue."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks

from msanet import distributed
from msanet.config import Config, parse_config
from msanet.data.index import load_manifest
from msanet.data.loader import plan_batches
from msanet.models import build_model
from msanet.training.checkpoint import Checkpoint, newest_whole, read_checkpoint, write_checkpoint
from msanet.training.trainer import Trainer


def small_config(shards: str, stage: int, **optimizer: Any) -> Config:
    """8 steps of 6 images: they cross the end of an epoch of 26."""
    return parse_config(
        {
            "data": {"path": shards, "crop": [32, 32], "scale": [0.7, 1.3], "flip_vertical": 0.5, "workers": 0},
            "model": {"name": "msanet", "width": 0.125},
            "optimizer": {"weight_decay": 0.01, "classifier_lr": 3.0, **optimizer},
            "trainer": {"steps": 8, "global_batch": 6, "zero_stage": stage, "ema": 0.9},
        },
        "test",
    )


def start(config: Config, saved: Checkpoint | None = None) -> Trainer:
    manifest = load_manifest(Path(config.data.path or ""))
    batches = plan_batches(config.trainer.global_batch, config.trainer.micro_batch, distributed.world_size())
    torch.manual_seed(config.run.seed)
    model = build_model(config.model.name, manifest.num_classes, **config.model.options)
    return Trainer(config, manifest, model, batches, saved)


def run_steps(trainer: Trainer, count: int) -> list[tuple[int, int]]:
    """Train and return the (epoch, sample) of this rank in order."""
    seen = []
    stream = trainer.stream()
    for _ in range(count):
        micro_batches = next(stream)
        trainer.train_step(micro_batches)
        for batch in micro_batches:
            seen += list(zip(batch.epochs_N.tolist(), batch.samples_N.tolist(), strict=True))
    return seen


def _save_after_four(shards: str, folder: str, stage: int, optimizer: dict[str, Any]) -> None:
    """Write checkpoints of step 4 and, without a break, of step 8."""
    trainer = start(small_config(shards, stage, **optimizer))
    for steps in (4, 8):
        run_steps(trainer, 4)
        checkpoint = trainer.checkpoint()
        distributed.on_main(lambda c=checkpoint, n=steps: write_checkpoint(Path(folder) / f"straight-{n}", c, keep=1))


def _resume_from_four(shards: str, folder: str, name: str, stage: int, optimizer: dict[str, Any]) -> None:
    saved = newest_whole(Path(folder) / "straight-4")
    assert saved is not None
    trainer = start(small_config(shards, stage, **optimizer), read_checkpoint(saved))
    assert trainer.step == 4 and trainer.consumed == 24
    run_steps(trainer, 4)
    checkpoint = trainer.checkpoint()
    distributed.on_main(lambda: write_checkpoint(Path(folder) / name, checkpoint, keep=1))


def _newest(folder: Path) -> Checkpoint:
    path = newest_whole(folder)
    assert path is not None
    return read_checkpoint(path)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resume_on_the_same_ranks_is_bit_exact(shards: Path, tmp_path: Path, stage: int) -> None:
    arguments: dict[str, Any] = {"shards": str(shards), "folder": str(tmp_path), "stage": stage, "optimizer": {}}
    run_ranks(2, __file__, "_save_after_four", arguments)
    run_ranks(2, __file__, "_resume_from_four", {**arguments, "name": "resumed"})
    straight, resumed = _newest(tmp_path / "straight-8"), _newest(tmp_path / "resumed")
    assert straight.state == resumed.state
    for name, tensor in straight.weights.items():
        assert torch.equal(tensor, resumed.weights[name]), name
        assert straight.average and resumed.average and torch.equal(straight.average[name], resumed.average[name]), name
        assert name.endswith("num_batches_tracked") or not torch.equal(tensor, straight.average[name]), name
    for name, state in straight.optimizer.items():
        for key, tensor in state.items():
            assert torch.equal(tensor, resumed.optimizer[name][key]), (name, key)
    for name, tensor in straight.rng.items():
        assert torch.equal(tensor, resumed.rng[name]), name
    before = _newest(tmp_path / "straight-4")
    assert any(not torch.equal(tensor, straight.weights[name]) for name, tensor in before.weights.items())


SGD = {"name": "sgd", "lr": 0.05}
STATELESS = {**SGD, "momentum": 0.0}


@pytest.mark.parametrize(
    ("world", "stage", "optimizer"), [(1, 0, {}), (3, 2, {}), (1, 3, {}), (3, 0, SGD), (1, 2, STATELESS)]
)
def test_resume_on_other_ranks_and_stages_agrees(
    shards: Path, tmp_path: Path, world: int, stage: int, optimizer: dict[str, Any]
) -> None:
    """From 2 ranks at stage 1 (0 for sgd) to others. BatchNorm sees other micro-batches, so it is only close."""
    arguments: dict[str, Any] = {"shards": str(shards), "folder": str(tmp_path), "optimizer": optimizer}
    run_ranks(2, __file__, "_save_after_four", {**arguments, "stage": 0 if optimizer else 1})
    outputs = run_ranks(world, __file__, "_resume_and_compare", {**arguments, "stage": stage})
    assert all("compared" in said for said in outputs)


def _resume_and_compare(shards: str, folder: str, stage: int, optimizer: dict[str, Any]) -> None:
    """What goes in comes out again unchanged on this layout, and the next steps take the same samples."""
    saved = _newest(Path(folder) / "straight-4")
    trainer = start(small_config(shards, stage, **optimizer), saved)
    again = trainer.checkpoint()
    for name, tensor in saved.weights.items():
        torch.testing.assert_close(again.weights[name], tensor, rtol=1e-6, atol=1e-7)  # buffers are averaged once more
        assert saved.average and again.average
        torch.testing.assert_close(again.average[name], saved.average[name], rtol=1e-6, atol=1e-7)
    assert bool(saved.optimizer) == (optimizer.get("momentum") != 0)
    for name, state in saved.optimizer.items():
        assert state.keys() == again.optimizer[name].keys() and state
        for key, tensor in state.items():
            assert torch.equal(tensor, again.optimizer[name][key]), (name, key)
    seen = distributed.gather_objects(run_steps(trainer, 4))
    expected = trainer.order.samples(torch.arange(24, 48).numpy())
    steps = [[s for rank in seen for s in rank[i * 6 // len(seen) : (i + 1) * 6 // len(seen)]] for i in range(4)]
    assert sum(steps, []) == list(zip(expected[0].tolist(), expected[1].tolist(), strict=True))
    assert trainer.training_figures()["lr"] == pytest.approx(trainer.config.optimizer.lr * (1 - 7 / 8) ** 0.9)
    print("compared")
