"""Options of the trainer on two ranks at each ZeRO stage: moving average, classifier's learning rate, recomputation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from msanet import distributed
from msanet.config import parse_config
from msanet.data.loader import plan_batches
from msanet.data.manifest import load_manifest
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.models import build_model
from msanet.training.checkpoint.checkpointer import all_running_statistics
from msanet.training.engine import zero_state
from msanet.training.engine.batchnorm_statistics import averaged_over_ranks
from msanet.training.trainer import Trainer
from support.errors import raises_user_error
from support.ranks import run_ranks
from support.small_runs import small_config, start, validate


def _start(shards: str, stage: int, lr: float = 0.1, classifier_lr_mult: float = 1.0, **trainer: Any) -> Trainer:
    config = parse_config(
        {
            "data": {"path": shards, "crop": [32, 32], "num_workers": 0},
            "model": {"name": "unet"},
            "optimizer": {"name": "sgd", "lr": lr, "momentum": 0.0, "classifier_lr_mult": classifier_lr_mult},
            "schedule": {"name": "constant"},
            "trainer": {"steps": 3, "global_batch_size": 4, "zero_stage": stage, **trainer},
            "evaluation": {"num_workers": 0, "panels": 0},
        },
        "test",
    )
    manifest = load_manifest(Path(shards))
    torch.manual_seed(0)
    model = build_model("unet", manifest.num_classes, width=0.05)
    config = config.model_copy(update={"model": config.model.model_copy(update={"width": 0.05})})
    return Trainer(config, manifest, model, plan_batches(4, None, distributed.world_size()), None)


def _weights_after_each_step(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    weights = [zero_state.gather_weights(trainer.engine, everywhere=True)]
    for batches in trainer.global_batches():
        trainer.train_step(batches)
        with averaged_over_ranks(all_running_statistics(trainer.engine, trainer.ema)):
            weights.append(zero_state.gather_weights(trainer.engine, everywhere=True))
    return weights


def _average_by_hand(shards: str, stage: int) -> None:
    trainer = _start(shards, stage, ema_decay=0.3)
    history = _weights_after_each_step(trainer)
    expected = history[0]
    for step, weights in enumerate(history[1:], start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        assert (decay == 0.3) == (step >= 3)
        expected = {
            name: decay * old + (1 - decay) * weights[name] if old.is_floating_point() else weights[name]
            for name, old in expected.items()
        }
    saved = trainer.checkpoint()
    assert saved.ema is not None
    if distributed.is_main():  # the others get nothing of it
        assert saved.ema.keys() == expected.keys() == saved.weights.keys()
    for name, tensor in saved.ema.items():
        if "running" not in name:  # these differ between ranks in between, and are averaged_over_ranks at the end
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)
        assert not tensor.equal(history[0][name])
        torch.testing.assert_close(saved.weights[name], history[-1][name], rtol=1e-6, atol=1e-7)
    source = ShardSource(LocalStorage(Path(shards)), "val", trainer.manifest)
    judged = validate(trainer, source)
    trainer.ema = None
    plain = validate(trainer, source)
    assert judged and plain and judged.matrix.sum() == plain.matrix.sum()
    assert (judged.matrix != plain.matrix).any(), "the average is what is judged"
    print("compared")


@pytest.mark.parametrize("stage", [0, 3])
def test_moving_average_is_the_formula_and_is_evaluated(shards: Path, stage: int) -> None:
    said = run_ranks(2, __file__, "_average_by_hand", {"shards": str(shards), "stage": stage})
    assert all("compared" in output for output in said)


def _compare_options(shards: str, stage: int) -> None:
    """One run as it is, one with ten times the rate for the classifier, one with recomputed activations."""
    plain, faster, recomputed = (
        _weights_after_each_step(_start(shards, stage, classifier_lr_mult=factor, activation_checkpointing=again))
        for factor, again in ((1.0, False), (10.0, False), (1.0, True))
    )
    for name, first in plain[0].items():
        torch.testing.assert_close(recomputed[-1][name], plain[-1][name], rtol=1e-5, atol=1e-6, msg=name)
        if "running" not in name and "num_batches" not in name:
            moved, factor = plain[1][name] - first, 10 if name.startswith("classifier.") else 1
            torch.testing.assert_close(faster[1][name] - first, factor * moved, rtol=1e-3, atol=1e-6, msg=name)
            assert moved.any()
    print("compared")


def _refused(shards: str) -> None:
    for section in ({"overlap_com": True}, {"offload_optimizer": {"device": "cpu"}}):
        config = small_config(shards, stage=1).model_copy(update={"deepspeed": {"zero_optimization": section}})
        with raises_user_error("MSA-TRAIN-011", setting="deepspeed") as refusal:
            start(config)
        print(str(refusal.value))


def test_what_deepspeed_refuses_is_a_sentence(shards: Path) -> None:
    (said,) = run_ranks(1, __file__, "_refused", {"shards": str(shards)})
    assert "overlap_com" in said and "offload" in said.lower()


@pytest.mark.parametrize("stage", [1, 3])
def test_classifiers_rate_and_recomputation(shards: Path, stage: int) -> None:
    said = run_ranks(2, __file__, "_compare_options", {"shards": str(shards), "stage": stage})
    assert all("compared" in output for output in said)
