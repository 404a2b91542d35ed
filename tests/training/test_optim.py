"""Learning rates by hand, and what DeepSpeed is told."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from msanet.config import Config, OptimizerConfig, ScheduleConfig, parse_config
from msanet.data.loader import BatchPlan
from msanet.models import build_model
from msanet.training.engine.optimizer import (
    bucket_size,
    build_optimizer,
    deepspeed_config,
    learning_rate,
    total_steps,
)
from msanet.training.engine.parameter_groups import parameter_groups
from support.errors import raises_user_error


def test_poly_is_the_papers() -> None:
    """MSANet section 4.2: times (1 - iter / total)^0.9 after each iteration."""
    schedule = ScheduleConfig(name="poly", power=0.9)
    assert learning_rate(0, 100, 1e-3, schedule) == 1e-3
    assert learning_rate(50, 100, 1e-3, schedule) == pytest.approx(1e-3 * 0.5**0.9)
    assert learning_rate(99, 100, 1e-3, schedule) == pytest.approx(1e-3 * 0.01**0.9)


def test_step_is_the_second_papers() -> None:
    """Attention to Scale section 4: times 0.1 after 2,000 iterations."""
    schedule = ScheduleConfig(name="step", decay_every_steps=2000, gamma=0.1)
    assert [learning_rate(s, 9999, 1.0, schedule) for s in (0, 1999, 2000, 4000)] == pytest.approx([1, 1, 0.1, 0.01])


def test_warm_up_is_linear() -> None:
    schedule = ScheduleConfig(name="constant", warmup_steps=4)
    assert [learning_rate(s, 10, 2.0, schedule) for s in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("total", [10, 97])
def test_cosine_and_one_cycle_are_torchs(total: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))

    def rates(make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]) -> list[float]:
        optimizer = torch.optim.SGD([parameter], lr=0.2)
        scheduler, found = make(optimizer), []
        for _ in range(total):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step() if len(found) < total else None
        return found

    schedulers = torch.optim.lr_scheduler
    cosine = ScheduleConfig(name="cosine", min_lr_mult=0.1)
    expected = rates(lambda optimizer: schedulers.CosineAnnealingLR(optimizer, total, eta_min=0.02))
    assert [learning_rate(step, total, 0.2, cosine) for step in range(total)] == pytest.approx(expected)
    cycle = ScheduleConfig(name="one_cycle", pct_start=0.4, div_factor=10, final_div_factor=100)
    expected = rates(lambda o: schedulers.OneCycleLR(o, 0.2, total, None, None, 0.4, "cos", False, 1, 1, 10, 100))
    assert [learning_rate(step, total, 0.2, cycle) for step in range(total)] == pytest.approx(expected)


def test_warm_up_stable_decay_by_hand() -> None:
    """The last 4 of 10 steps go from 1 down to 0.2 by a quarter of the way each; cosine is halfway down in the middle."""
    schedule = ScheduleConfig(name="wsd", warmup_steps=2, decay_fraction=0.4, min_lr_mult=0.2)
    expected = [0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4]
    assert [learning_rate(step, 10, 1.0, schedule) for step in range(10)] == pytest.approx(expected)
    assert learning_rate(5, 10, 1.0, ScheduleConfig(name="cosine", min_lr_mult=0.5)) == pytest.approx(0.75)


@pytest.mark.parametrize("name", ["poly", "step", "constant", "cosine", "one_cycle", "wsd"])
def test_any_schedule_warms_up_and_stays_in_its_bounds(name: Any) -> None:
    for total in (1, 2, 3, 10):
        plain, warm = (ScheduleConfig(name=name, warmup_steps=steps) for steps in (0, 4))
        rates = [learning_rate(step, total, 1.0, plain) for step in range(total)]
        assert all(0 < rate <= 1 for rate in rates)
        expected = [rate * min(1, (step + 1) / 4) for step, rate in enumerate(rates)]
        assert [learning_rate(step, total, 1.0, warm) for step in range(total)] == pytest.approx(expected)


def test_optimizers() -> None:
    model = build_model("unet", 3, width=0.02)
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        settings = parse_config(
            {"optimizer": {"name": name, "lr": 0.1, "weight_decay": 0.2, "momentum": 0.3}}, ""
        ).optimizer
        optimizer = build_optimizer(model, settings)
        assert type(optimizer) is kind
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0.2)
    assert optimizer.defaults["momentum"] == 0.3


def test_steps_of_a_run() -> None:
    assert (
        total_steps(parse_config({"trainer": {"epochs": 2, "global_batch_size": 8}}, ""), 367) == 92
    )  # 734 / 8 = 91.75
    assert total_steps(parse_config({"trainer": {"steps": 5}}, ""), 367) == 5


def config(**deepspeed: object) -> Config:
    return parse_config({"trainer": {"zero_stage": 2, "precision": "bf16"}, "deepspeed": deepspeed}, "test")


def test_the_users_json_is_merged_under_what_is_derived() -> None:
    told = deepspeed_config(config(zero_optimization={"overlap_comm": True}, dump_state=False), BatchPlan(8, 2, 2), 100)
    assert told["zero_optimization"] == {"stage": 2, "overlap_comm": True, "reduce_bucket_size": 100}
    assert told["dump_state"] is False
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [told[name] for name in sizes] == [8, 2, 2]
    assert told["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("deepspeed", "setting"),
    [
        ({"train_batch_size": 16}, "trainer.global_batch_size"),
        ({"train_micro_batch_size_per_gpu": 8}, "trainer.micro_batch_size"),
        ({"zero_optimization": {"stage": 3}}, "trainer.zero_stage"),
        ({"optimizer": {"type": "Adam"}}, "the section optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "the section schedule"),
        ({"bf16": {"enabled": True}}, "trainer.precision"),
    ],
)
def test_what_both_decide_is_refused(deepspeed: dict, setting: str) -> None:
    with raises_user_error("MSA-TRAIN-010", mentions=setting):
        deepspeed_config(config(**deepspeed), BatchPlan(8, 2, 2), 100)


def test_what_both_say_alike_or_leave_open_is_taken() -> None:
    told = deepspeed_config(config(train_batch_size="auto", zero_optimization={"stage": 2}), BatchPlan(8, 2, 2), 100)
    assert told["train_batch_size"] == 8 and told["zero_optimization"]["stage"] == 2


def test_zeros_buffers_are_as_large_as_the_network_unless_told() -> None:
    assert bucket_size(config(), 100) == 100
    own = config(zero_optimization={"reduce_bucket_size": 5e8})
    assert bucket_size(own, 100) == 500_000_000
    assert deepspeed_config(own, BatchPlan(8, 2, 2), 100)["zero_optimization"]["reduce_bucket_size"] == 500_000_000


def test_classifier_has_a_rate_of_its_own() -> None:
    """Both heads of a network with an auxiliary one, and nothing else; one group where the factor is 1."""
    model = build_model("deeplabv3", 3, width=0.02, auxiliary=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trunk, classifier = parameter_groups(model, OptimizerConfig(classifier_lr_mult=10.0))
    assert (trunk["lr_factor"], classifier["lr_factor"]) == (1.0, 10.0)
    heads = {f"{head}.{part}" for head in ("classifier", "auxiliary.1") for part in ("weight", "bias")}
    assert {names[id(parameter)] for parameter in classifier["params"]} == heads
    assert len(trunk["params"]) + len(classifier["params"]) == len(names)
    (together,) = parameter_groups(model, OptimizerConfig())
    assert len(together["params"]) == len(names) and together["lr_factor"] == 1.0
