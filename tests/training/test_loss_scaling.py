"""fp16: the scale by hand, steps that do not depend on it, and its place in a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msanet import distributed
from msanet.config import Config, parse_config
from msanet.data.loader import BatchPlan
from msanet.training.checkpoint.format import LossScale
from msanet.training.checkpoint.io import write_checkpoint
from msanet.training.engine.loss_scaling import LossScaler, autocast_training
from msanet.training.engine.optimizer import deepspeed_config
from msanet.training.trainer import Trainer
from support.errors import raises_user_error
from support.ranks import run_ranks
from support.small_runs import newest, run_steps, small_config, start

CPU = torch.device("cpu")


def test_the_scale_halves_and_doubles() -> None:
    scaler = LossScaler(CPU, LossScale(scale=4.0, good_steps=1997))
    seen = []
    for skipped in (0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0):
        scaler.update(torch.tensor(skipped))
        seen.append((scaler.state().scale, scaler.state().good_steps))
    assert seen == [(4, 1998), (4, 1999), (8, 0), (4, 0), (4, 1), (2, 0), (1, 0), (1, 0), (1, 0)]
    assert LossScaler(CPU).state() == LossScale(scale=65536.0, good_steps=0)


def test_only_training_is_in_float16() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    autocast_training(model, CPU)
    image = torch.randn(1, 3, 4, 4)
    assert model.train()(image).dtype == torch.float16 and model.eval()(image).dtype == torch.float32


def test_an_offloaded_optimizer_is_refused() -> None:
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    config = parse_config({"trainer": {"precision": "fp16", "zero_stage": 1}, "deepspeed": offload}, "test")
    with raises_user_error("MSA-TRAIN-660", setting="trainer.precision"):
        deepspeed_config(config, BatchPlan(8, 2, 2), 100)


def _config(shards: str, stage: int) -> Config:
    config = small_config(shards, stage, clip_grad_norm=0.5)
    trainer = config.trainer.model_copy(update={"precision": "fp16", "micro_batch_size": 1})
    return config.model_copy(update={"trainer": trainer})


def _checkpoint(trainer: Trainer, folder: str, name: str) -> dict[str, Tensor]:
    checkpoint = trainer.checkpoint()
    distributed.on_main(lambda: write_checkpoint(Path(folder) / name, checkpoint, keep=1))
    state = {f"{name}/{key}": t for name, own in checkpoint.optimizer.items() for key, t in own.items()}
    return {name: tensor.clone() for name, tensor in {**checkpoint.weights, **state}.items()}


def _train(shards: str, folder: str, stage: int) -> None:
    dtypes = set()
    trainer = start(_config(shards, stage))
    note = lambda module, inputs, output: dtypes.add(output.dtype)  # noqa: E731
    trainer.engine.module.classifier.register_forward_hook(note)
    before = _checkpoint(trainer, folder, "start")
    trainer.scaler.scale.fill_(2.0**127)  # type: ignore[union-attr]
    run_steps(trainer, 1)  # whose gradients are infinite
    after = _checkpoint(trainer, folder, "skipped")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()) and trainer.anomalies.skipped == 1
    assert trainer.scaler and trainer.scaler.state() == LossScale(scale=2.0**126, good_steps=0)
    assert dtypes == {torch.float16}
    trainer.scaler.scale.fill_(2.0**10)
    run_steps(trainer, 2)
    assert trainer.anomalies.skipped == 1
    _checkpoint(trainer, folder, "third")
    run_steps(trainer, 2)
    straight = _checkpoint(trainer, folder, "straight")
    trainer = start(_config(shards, stage), newest(Path(folder) / "third"))
    assert trainer.scaler and trainer.scaler.state() == LossScale(scale=1024.0, good_steps=2)
    run_steps(trainer, 2)
    resumed = _checkpoint(trainer, folder, "resumed")
    assert [name for name, tensor in straight.items() if not torch.equal(tensor, resumed[name])] == []
    assert trainer.metrics()["loss_scale"] == 1024.0
    print("compared")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_overflows_are_skipped_and_resumes_are_bit_exact(shards: Path, tmp_path: Path, stage: int) -> None:
    """With accumulation and clipping."""
    outputs = run_ranks(2, __file__, "_train", {"shards": str(shards), "folder": str(tmp_path), "stage": stage})
    assert all("compared" in said for said in outputs)
    assert newest(tmp_path / "straight").state.loss_scale == LossScale(scale=1024.0, good_steps=4)


def _steps_of_scales(shards: str, stage: int) -> None:
    """fp32 autograd with the scale around it: a power of two changes no bit, clipping included."""
    found: list[dict[str, Any]] = []
    for scale in (1.0, 4096.0):
        trainer = start(_config(shards, stage))
        trainer.engine.module.forward = type(trainer.engine.module).forward.__get__(trainer.engine.module)
        assert trainer.scaler
        trainer.scaler.scale.fill_(scale)
        run_steps(trainer, 2)
        saved = trainer.checkpoint()
        found.append({**saved.weights, **{k: v for own in saved.optimizer.values() for k, v in own.items()}})
    assert [name for name, tensor in found[0].items() if not torch.equal(tensor, found[1][name])] == []
    print("compared")


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_scale_does_not_change_a_step(shards: Path, stage: int) -> None:
    outputs = run_ranks(2, __file__, "_steps_of_scales", {"shards": str(shards), "stage": stage})
    assert all("compared" in said for said in outputs)
