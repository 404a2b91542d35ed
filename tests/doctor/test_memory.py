"""The memory estimate, against what real tensors take."""

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from msanet.config import Config, EvaluationConfig, OptimizerConfig, TrainerConfig
from msanet.doctor import memory
from msanet.models import build_model
from msanet.models.peak_memory import peak_bytes
from msanet.training.engine.optimizer import build_optimizer
from msanet.training.memory.estimate import StepMemory, bucket_bytes
from support.networks import CASES, CLASSES, training_loss

SIZE = (64, 96)
HISTOGRAM = (1, 1, 1, 1, 1)


def narrow() -> Any:
    return build_model("msanet", len(HISTOGRAM), width=0.05)


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    with FakeTensorMode():
        layer = nn.Linear(10, 20, bias=False)

        def work() -> None:
            x = torch.zeros(5, 10)  # 200 bytes
            y = layer(x)  # 400, kept with x
            del x, y
            z = torch.zeros(100)  # 400, later
            z.add_(1)

        assert peak_bytes(layer, work) == 600

        def step() -> None:
            layer(torch.zeros(5, 10)).sum().backward()

        # x and y; the sum and its gradient, expanded without memory; the weight's own gradient is not counted
        assert 600 <= peak_bytes(layer, step) <= 600 + 2 * 4 + 800
        assert layer.weight.grad is None


@pytest.mark.parametrize("case", ["msanet", "deeplabv3-8-auxiliary", "unet"])
def test_real_tensors_are_alive_as_fake_ones_are(case: str) -> None:
    labels_NHW = torch.zeros(2, *SIZE, dtype=torch.uint8)

    def peak() -> int:
        name, options = CASES[case]
        model = build_model(name, CLASSES, width=0.05, **options)
        return peak_bytes(model, lambda: training_loss(model, torch.zeros(2, 3, *SIZE), labels_NHW).backward())

    real = peak()
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = peak()
    assert fake == real > 0


def test_evaluation_in_windows_takes_less() -> None:
    full = memory.evaluation_bytes(narrow, EvaluationConfig(), (128, 128))
    assert memory.evaluation_bytes(narrow, EvaluationConfig(window=(64, 64), window_batch=1), (128, 128)) < full
    assert full > 4 * len(HISTOGRAM) * 128 * 128


@pytest.mark.parametrize(("name", "momentum", "values"), [("adam", 0.9, 2), ("sgd", 0.9, 1), ("sgd", 0.0, 0)])
def test_a_checkpoint_has_the_optimizers_own_state(name: Any, momentum: float, values: int) -> None:
    model = narrow()
    settings = OptimizerConfig(name=name, momentum=momentum)
    optimizer = build_optimizer(model, settings)
    training_loss(model, torch.zeros(2, 3, *SIZE), torch.zeros(2, *SIZE, dtype=torch.uint8)).backward()
    optimizer.step()
    moments = [
        t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor) and t.dim()
    ]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert sum(moment.numel() for moment in moments) == values * parameters
    assert memory.checkpoint_bytes(parameters, 10, Config(optimizer=settings)) == 4 * (parameters * (1 + values) + 10)


def test_buckets_larger_than_the_network() -> None:
    large = {"zero_optimization": {"reduce_bucket_size": 500_000_000}}
    config = Config(trainer=TrainerConfig(zero_stage=2), deepspeed=large)
    (diagnostic,) = memory.buckets(10**6, config)
    assert diagnostic.level == "advice" and "2.00 GB" in diagnostic.text and "reduce_bucket_size" in diagnostic.text
    unset = Config(trainer=TrainerConfig(zero_stage=2))
    assert memory.buckets(10**6, Config()) == memory.buckets(10**9, config) == memory.buckets(10**6, unset) == []
    bf16 = Config(trainer=TrainerConfig(zero_stage=2, precision="bf16"))
    assert bucket_bytes(bf16, 10) == 80
    assert bucket_bytes(bf16.model_copy(update={"deepspeed": large}), 10) == 4e9


def test_what_fits() -> None:
    needed = StepMemory(weights=10e9, gradients=0, optimizer=0, average=0, buckets=0, activations=40e9)
    levels = [memory.fits(needed, 1e9, device, Config())[0].level for device in (None, 80e9, 55e9, 49e9)]
    assert levels == ["ok", "ok", "warning", "fault"]
    assert "trainer.micro_batch_size" in memory.fits(needed, 1e9, 49e9, Config())[0].text
    (diagnostic,) = memory.fits(needed, 100e9, 80e9, Config())
    assert diagnostic.level == "fault" and "evaluation.window" in diagnostic.text
