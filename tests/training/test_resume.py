"""3 steps, a resume and 5 more are 8 steps: weights, optimizer, schedule, generators and stream position continue."""

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import REPOSITORY
from msanet import distributed
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.checkpoint.io import write_checkpoint
from msanet.training.trainer import Trainer
from support.ranks import run_ranks
from support.small_runs import newest, run_steps, small_config, start, validate


def _save(trainer: Trainer, folder: str, name: str) -> None:
    checkpoint = trainer.checkpoint()
    distributed.on_main(lambda: write_checkpoint(Path(folder) / name, checkpoint, keep=1))


def _validate(trainer: Trainer) -> None:
    """First in vain, then to the end."""
    source = ShardSource(LocalStorage(Path(trainer.config.data.source)), "val", trainer.manifest)
    assert validate(trainer, source, lambda: True) is None and validate(trainer, source) is not None


def _train(shards: str, folder: str, stage: Any, network: str) -> None:
    """8 steps straight through; and 8 steps with a save out of turn, and validations, after the third."""
    for third, last in ((None, "straight"), ("third", "disturbed")):
        trainer = start(small_config(shards, stage, network))
        run_steps(trainer, 3)
        if third:
            _save(trainer, folder, third)
            _validate(trainer)
        run_steps(trainer, 5)
        _save(trainer, folder, last)


def _resume(shards: str, folder: str, stage: Any, network: str) -> None:
    trainer = start(small_config(shards, stage, network), newest(Path(folder) / "third"))
    assert trainer.state.step == 3 and trainer.state.consumed_samples == 18
    _validate(trainer)
    run_steps(trainer, 5)
    _save(trainer, folder, "resumed")


@pytest.mark.parametrize(
    ("world", "stage", "network"),
    [(2, 0, "msanet"), (2, 1, "deeplab_largefov"), (3, 2, "msanet"), (2, 3, "msanet"), (3, "ddp", "msanet")],
)
def test_saves_validations_and_resumes_are_bit_exact_on_the_same_ranks(
    shards: Path, tmp_path: Path, world: int, stage: int | str, network: str
) -> None:
    """With BatchNorm, whose running statistics differ between ranks, or with dropout, which draws from generators."""
    arguments = {"shards": str(shards), "folder": str(tmp_path), "stage": stage, "network": network}
    run_ranks(world, __file__, "_train", arguments)
    run_ranks(world, __file__, "_resume", arguments)
    third, straight = newest(tmp_path / "third"), newest(tmp_path / "straight")
    for again in (newest(tmp_path / "disturbed"), newest(tmp_path / "resumed")):
        assert again.state.model_copy(update={"best": None}) == straight.state
        assert _differences(straight, again) == []
    changed, weights = _differences(third, straight), list(straight.weights)
    assert {f"{kind}/{name}" for kind in ("weights", "average") for name in weights} <= set(changed)
    assert {f"rng/{rank}.cpu" for rank in range(world)} <= set(changed) or network == "msanet"
    assert straight.ema and bool(straight.buffers) == (network == "msanet")
    published = straight.weights | {f"average/{name}": tensor for name, tensor in straight.ema.items()}
    for name, ranks in straight.buffers.items():
        assert len(ranks) == world and not torch.equal(ranks[0], ranks[1]), "the ranks saw the same images"
        torch.testing.assert_close(published[name], ranks.mean(dim=0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("engines", [(0, "ddp"), ("ddp", 0)])
def test_either_engine_continues_the_others_run_bit_for_bit(shards: Path, tmp_path: Path, engines: tuple) -> None:
    """On two ranks, where a sum has no order."""
    arguments = {"shards": str(shards), "folder": str(tmp_path), "network": "deeplab_largefov"}
    run_ranks(2, __file__, "_train", {**arguments, "stage": engines[0]})
    run_ranks(2, __file__, "_resume", {**arguments, "stage": engines[1]})
    assert _differences(newest(tmp_path / "straight"), newest(tmp_path / "resumed")) == []


@pytest.mark.parametrize("stage", [0, 1, 3, "ddp"])
def test_networks_from_elsewhere_resume_bit_exactly(shards: Path, tmp_path: Path, stage: int | str) -> None:
    """With an auxiliary output, and parameters that get no gradient: they stay as they are."""
    network = f"{REPOSITORY}/tests/models/external_networks.py:Auxiliary"
    arguments = {"shards": str(shards), "folder": str(tmp_path), "stage": stage, "network": network}
    run_ranks(2, __file__, "_train", arguments)
    run_ranks(2, __file__, "_resume", arguments)
    third, straight = newest(tmp_path / "third"), newest(tmp_path / "straight")
    for again in (newest(tmp_path / "disturbed"), newest(tmp_path / "resumed")):
        assert again.state.model_copy(update={"best": None}) == straight.state
        assert _differences(straight, again) == []
    unused = {"network.unused.weight", "network.unused.bias"}
    changed = {name.removeprefix("weights/") for name in _differences(third, straight) if name.startswith("weights/")}
    assert changed == straight.weights.keys() - unused and unused < straight.weights.keys()


def _differences(a: Checkpoint, b: Checkpoint) -> list[str]:
    """Which tensors differ, be it in one bit."""
    first, second = _tensors(a), _tensors(b)
    assert first.keys() == second.keys()
    return [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


def _tensors(saved: Checkpoint) -> dict[str, torch.Tensor]:
    kinds = {"weights": saved.weights, "average": saved.ema or {}, "rng": saved.rng, "buffers": saved.buffers}
    kinds |= {f"optimizer/{name}": state for name, state in saved.optimizer.items()}
    return {f"{kind}/{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}


SGD = {"name": "sgd", "lr": 0.05}
STATELESS = {**SGD, "momentum": 0.0}


@pytest.mark.parametrize(
    ("world", "stage", "optimizer"),
    [(1, 0, {}), (3, 2, {}), (1, 3, {}), (3, 0, SGD), pytest.param(1, 2, STATELESS, marks=pytest.mark.slow)],
)
def test_resume_on_other_ranks_and_stages_agrees(
    shards: Path, tmp_path: Path, world: int, stage: int, optimizer: dict[str, Any]
) -> None:
    """From 2 ranks at stage 1 (0 for sgd) to others. BatchNorm sees other micro-batches, so it is only close."""
    arguments: dict[str, Any] = {"shards": str(shards), "folder": str(tmp_path), "optimizer": optimizer}
    run_ranks(2, __file__, "_save_after_four", {**arguments, "stage": 0 if optimizer else 1})
    outputs = run_ranks(world, __file__, "_resume_and_compare", {**arguments, "stage": stage})
    assert all("compared" in said for said in outputs)


def _save_after_four(shards: str, folder: str, stage: int, optimizer: dict[str, Any]) -> None:
    trainer = start(small_config(shards, stage, **optimizer))
    run_steps(trainer, 4)
    _save(trainer, folder, "fourth")


def _resume_and_compare(shards: str, folder: str, stage: int, optimizer: dict[str, Any]) -> None:
    """What goes in comes out again unchanged on this layout, and the next steps take the same samples."""
    saved = newest(Path(folder) / "fourth")
    trainer = start(small_config(shards, stage, **optimizer), saved)
    again = trainer.checkpoint()
    for name, tensor in saved.weights.items() if distributed.is_main() else ():  # what is saved is on rank 0 alone
        torch.testing.assert_close(
            again.weights[name], tensor, rtol=1e-6, atol=1e-7
        )  # buffers are averaged_over_ranks once more
        assert saved.ema and again.ema
        torch.testing.assert_close(again.ema[name], saved.ema[name], rtol=1e-6, atol=1e-7)
    published = saved.weights | {f"average/{name}": tensor for name, tensor in (saved.ema or {}).items()}
    for name, ranks in again.buffers.items():
        assert all(torch.equal(own, published[name]) for own in ranks), "all begin with the mean"
    assert bool(saved.optimizer) == (optimizer.get("momentum") != 0)
    for name, state in saved.optimizer.items() if distributed.is_main() else ():
        assert state.keys() == again.optimizer[name].keys() and state
        for key, tensor in state.items():
            assert torch.equal(tensor, again.optimizer[name][key]), (name, key)
    seen = distributed.gather_objects(run_steps(trainer, 4))
    expected = trainer.order.samples(torch.arange(24, 48).numpy())
    steps = [[s for rank in seen for s in rank[i * 6 // len(seen) : (i + 1) * 6 // len(seen)]] for i in range(4)]
    assert sum(steps, []) == list(zip(expected[0].tolist(), expected[1].tolist(), strict=True))
    assert trainer.metrics()["lr"] == pytest.approx(trainer.config.optimizer.lr * (1 - 7 / 8) ** 0.9)
    print("compared")
