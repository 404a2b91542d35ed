"""A step whose loss or gradients are not finite changes nothing on any rank, at any ZeRO stage; too many end the run."""

import json
import math
from collections import Counter
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msanet import distributed
from msanet.data.loader import plan_batches, shuffle_config, shuffle_order
from msanet.data.manifest import load_manifest
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.training.engine import zero_state
from msanet.training.nonfinite.anomalies import _WARM_UP, AnomalyMonitor, LossSpikeDetector, StepRecord
from msanet.training.nonfinite.guard import StepStats
from msanet.training.trainer import Trainer
from support.poison import STEPS, PoisonedGradient, small_config, start
from support.ranks import run_ranks


def poison(trainer: Trainer, faults: dict[int, tuple[str, int]]) -> None:
    """faults: by step, what goes wrong (`loss` or `gradient`) and on which rank, in the last micro-batch."""

    def spoil(module: Any, inputs: Any, output: Tensor) -> Tensor:
        kind, rank = faults.get(trainer.state.step + 1, ("", -1))
        if rank != distributed.rank() or not trainer.engine.is_gradient_accumulation_boundary():
            return output
        return PoisonedGradient.apply(output) if kind == "gradient" else output * math.nan

    trainer.engine.module.classifier.register_forward_hook(spoil)


def state(trainer: Trainer) -> dict[str, Tensor]:
    """All that this rank holds, copied."""
    held = {f"weight {name}": tensor for name, tensor in zero_state.local_weights(trainer.engine).items()}
    held |= {f"buffer {name}": tensor for name, tensor in trainer.engine.module.named_buffers()}
    optimizer = zero_state._base(trainer.engine)
    for number, flat in enumerate(zero_state._flat_parameters(trainer.engine)):
        held |= {f"{key} {number}": tensor for key, tensor in optimizer.state[flat].items() if tensor is not None}
    if trainer.ema:
        held |= {f"average {name}": tensor for name, tensor in trainer.ema._average.items()}
    return {name: tensor.detach().clone() for name, tensor in held.items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        is_same = (tensor == b[name]) | (tensor.isnan() & b[name].isnan())  # what pads partitions may be anything
        assert is_same.all(), name


def saved(trainer: Trainer) -> dict[str, Tensor]:
    """What rank 0 would save, and this rank's buffers as they are before that."""
    own = {f"buffer {name}": tensor.clone() for name, tensor in trainer.engine.module.named_buffers()}
    whole = trainer.checkpoint()
    assert whole.ema is not None
    states = {f"{key} {name}": tensor for name, entry in whole.optimizer.items() for key, tensor in entry.items()}
    averages = {f"average {name}": tensor for name, tensor in whole.ema.items()}
    return own | states | averages | {f"weight {name}": tensor for name, tensor in whole.weights.items()}


def _skip(shards: str, stage: int, optimizer: dict[str, Any], faults: dict[str, tuple[str, int]]) -> None:
    """One run in which some steps go wrong, beside one that takes the samples of these and does nothing with them."""
    bad = {int(step): fault for step, fault in faults.items()}
    config = small_config(shards, optimizer, zero_stage=stage, ema_decay=0.9)
    wrong, without = start(config), start(config)
    poison(wrong, bad)
    for batches, same in zip(wrong.global_batches(), without.global_batches(), strict=True):
        before = state(wrong)
        wrong.train_step(batches)
        if wrong.state.step in bad:
            after = state(wrong)
            assert_same({name: tensor for name, tensor in after.items() if name in before}, before)
            assert all(not after[name].any() for name in after.keys() - before), "Adam's state begins with zeros"
            without.state.step, without.state.consumed_samples = (
                without.state.step + 1,
                without.state.consumed_samples + 8,
            )
        else:
            without.train_step(same)
            assert any(not torch.equal(tensor, before[name]) for name, tensor in state(wrong).items() if name in before)
    assert wrong.state.step == STEPS and wrong.state.consumed_samples == 8 * STEPS
    assert_same(saved(wrong), saved(without))
    figures, expected = wrong.metrics(), without.metrics()
    assert figures["nonfinite_steps"] == len(bad) and "nonfinite_steps" not in expected
    assert figures["loss"] == expected["loss"] and math.isfinite(figures["loss"])
    print("compared")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_skipped_step_never_happened(shards: Path, stage: int) -> None:
    """In the first step too, by the loss of one rank and by the gradients of the other, with and without clipping."""
    adam = {"weight_decay": 0.01, "classifier_lr_mult": 3.0}
    faults = {"3": ("loss", 1), "4": ("gradient", 0)}
    said = run_ranks(2, __file__, "_skip", {"shards": str(shards), "stage": stage, "optimizer": adam, "faults": faults})
    assert all("compared" in output for output in said)
    warnings = [line for output in said for line in output.splitlines() if "warning: step" in line]
    assert len(warnings) == 2 and "step 3 is skipped: the loss of rank 1 is not finite (train_" in warnings[0]
    assert "step 4 is skipped: the gradients are not finite" in warnings[1] and "2 in a row of 10" in warnings[1]


@pytest.mark.parametrize("stage", [0, 3])
def test_the_first_step_of_sgd_is_skipped(shards: Path, stage: int) -> None:
    sgd = {"name": "sgd", "lr": 0.1, "clip_grad_norm": 1.0}
    faults = {"1": ("gradient", 1)}
    said = run_ranks(2, __file__, "_skip", {"shards": str(shards), "stage": stage, "optimizer": sgd, "faults": faults})
    assert all("compared" in output for output in said)


def _count_waits(shards: str) -> None:
    """What a step asks of the device's numbers in Python, after the first steps, where everything is as usual."""
    trainer = start(small_config(shards, ema_decay=0.9))
    stream = trainer.global_batches()
    for _ in range(2):
        trainer.train_step(next(stream))
    waits: Counter[str] = Counter()

    def counted(tensor: Tensor, name: str, original: Any, *arguments: Any) -> Any:
        waits[name] += 1
        return original(tensor, *arguments)

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "cpu", "nonzero"):
        setattr(Tensor, name, partialmethod(counted, name, getattr(Tensor, name)))
    batches = [next(stream), next(stream)]
    waits.clear()
    for taken in batches:
        trainer.train_step(taken)
    assert waits == {"tolist": 2}, waits
    assert len(trainer.anomalies._pending) == 1, "the figures of a step are read when the next is under way"
    print("counted")


def test_a_step_does_not_wait_for_the_device(shards: Path) -> None:
    """But for the figures of the step before, which the device has done."""
    assert "counted" in run_ranks(1, __file__, "_count_waits", {"shards": str(shards)})[0]


def test_a_spike_is_far_above_the_moving_mean() -> None:
    trend = LossSpikeDetector(deviations=6.0)
    losses = [2 + 0.1 * (-1) ** number for number in range(400)]
    for number, loss in enumerate(losses):
        assert trend.is_spike(99.0) == (number >= _WARM_UP)
        trend.take(loss)
    assert trend.mean == pytest.approx(2.0, abs=0.01) and trend.deviation == pytest.approx(0.1, rel=0.05)
    assert trend.is_spike(2.7) and not trend.is_spike(2.5) and not trend.is_spike(0.0)
    trend.take(1e9)
    assert trend.mean < 2.1 and trend.is_spike(4.0), "one spike hides no other"
    assert not LossSpikeDetector(deviations=0.0).is_spike(99.0)


class Arrived:
    """StepStats that are on the host already."""

    def __init__(self, *losses: float, skipped: bool = False) -> None:
        self.figures = StepStats(skipped, losses)

    def read(self) -> StepStats:
        return self.figures


def test_anomalies_are_noted_with_their_samples(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(str(shards), max_nonfinite_steps=1)
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": tmp_path})})
    manifest = load_manifest(shards)
    order = shuffle_order(manifest, "train", shuffle_config(config))
    found = AnomalyMonitor(config, manifest, order, plan_batches(8, 2, 2))

    def take(number: int, *losses: float, skipped: bool = False) -> bool:
        figures: Any = Arrived(*losses, skipped=skipped)
        found.add(StepRecord(number, 8 * (number - 1), figures, (), torch.zeros(3), {}))
        return found.drain() is not None

    for number in range(1, 61):
        assert not take(number, 1.0 + 0.01 * (number % 2), 1.0)
    assert not take(61, 40.0, 1.0)
    assert not take(62, 1.0, math.nan, skipped=True)
    assert found.mean_loss() == pytest.approx((60 * 2 + 30 * 0.01 + 41) / 61), "of the steps that count"
    assert not take(63, 1.0, 1.0) and not take(64, 1.0, 1.0, skipped=True)
    assert take(65, 1.0, 1.0, skipped=True) and (found.skipped, found.in_a_row) == (3, 2)
    spike, loss, *gradients = [json.loads(line) for line in (tmp_path / "anomalies.jsonl").read_text().splitlines()]
    assert (spike["kind"], spike["step"], spike["loss"]) == ("spike", 61, 41.0) and spike["expected"] < 2.1
    assert (loss["kind"], loss["cause"], loss["ranks"], loss["loss"]) == ("skipped", "loss", [1], None)
    assert [(line["step"], line["cause"], line["in_a_row"]) for line in gradients] == [
        (64, "gradients", 1),
        (65, "gradients", 2),
    ]
    epochs, numbers = order.samples(torch.arange(8 * 60, 8 * 62).numpy())
    source = ShardSource(LocalStorage(shards), "train")
    expected = [
        {"epoch": int(epoch), "sample": int(number), "key": source.key(int(number))}
        for epoch, number in zip(epochs, numbers, strict=True)
    ]
    assert spike["samples"] == expected[:8] and loss["samples"] == expected[12:], "all of the batch, and rank 1's"
    said = capsys.readouterr().err
    assert said.count("warning: step") == 4
    assert said.count("the last 62 steps had no labeled pixel that counts") == 1, "their counts are 0"
