"""4 steps, a resume and 4 more are 8 steps: weights, optimizer, schedule, generators and stream position continue."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from small_runs import newest, run_steps, small_config, start

from msanet import distributed
from msanet.training.checkpoint import newest_whole, read_checkpoint, write_checkpoint


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


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resume_on_the_same_ranks_is_bit_exact(shards: Path, tmp_path: Path, stage: int) -> None:
    arguments: dict[str, Any] = {"shards": str(shards), "folder": str(tmp_path), "stage": stage, "optimizer": {}}
    run_ranks(2, __file__, "_save_after_four", arguments)
    run_ranks(2, __file__, "_resume_from_four", {**arguments, "name": "resumed"})
    straight, resumed = newest(tmp_path / "straight-8"), newest(tmp_path / "resumed")
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
    before = newest(tmp_path / "straight-4")
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
    saved = newest(Path(folder) / "straight-4")
    trainer = start(small_config(shards, stage, **optimizer), saved)
    again = trainer.checkpoint()
    for name, tensor in saved.weights.items() if distributed.is_main() else ():  # what is saved is on rank 0 alone
        torch.testing.assert_close(again.weights[name], tensor, rtol=1e-6, atol=1e-7)  # buffers are averaged once more
        assert saved.average and again.average
        torch.testing.assert_close(again.average[name], saved.average[name], rtol=1e-6, atol=1e-7)
    assert bool(saved.optimizer) == (optimizer.get("momentum") != 0)
    for name, state in saved.optimizer.items() if distributed.is_main() else ():
        assert state.keys() == again.optimizer[name].keys() and state
        for key, tensor in state.items():
            assert torch.equal(tensor, again.optimizer[name][key]), (name, key)
    seen = distributed.gather_objects(run_steps(trainer, 4))
    expected = trainer.order.samples(torch.arange(24, 48).numpy())
    steps = [[s for rank in seen for s in rank[i * 6 // len(seen) : (i + 1) * 6 // len(seen)]] for i in range(4)]
    assert sum(steps, []) == list(zip(expected[0].tolist(), expected[1].tolist(), strict=True))
    assert trainer.training_figures()["lr"] == pytest.approx(trainer.config.optimizer.lr * (1 - 7 / 8) ** 0.9)
    print("compared")
