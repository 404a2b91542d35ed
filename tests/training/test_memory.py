"""The estimate of a training step's memory against what real steps of the trainer take, as PyTorch's allocator reports it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from msanet.config import Config, OptimizerConfig, TrainerConfig
from msanet.data.loader import BatchPlan
from msanet.models import build_model
from msanet.training.memory.estimate import StepMemory, gigabytes, state_bytes, step_memory
from support.ranks import run_ranks
from support.small_runs import run_steps, small_config, start

SIZE, HISTOGRAM = (64, 96), (1, 1, 1, 1, 1)
CASES: dict[str, dict[str, Any]] = {
    "msanet": {"crop": [96, 128], "trainer": {"global_batch_size": 3, "ema_decay": 0.0}},
    "msanet, bf16, recomputed": {
        "crop": [96, 160],
        "trainer": {"global_batch_size": 3, "precision": "bf16", "activation_checkpointing": True, "ema_decay": 0.0},
    },
    "unet, SGD, two micro-batches": {
        "network": "unet",
        "crop": [96, 160],
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "trainer": {"global_batch_size": 6, "micro_batch_size": 3, "zero_stage": 2},
    },
    "deeplabv3, ZeRO 3": {
        "network": "deeplabv3",
        "crop": [192, 256],
        "trainer": {"global_batch_size": 4, "zero_stage": 3},
    },
}


def _config(shards: str, case: str) -> Config:
    chosen = CASES[case]
    config = small_config(shards, 0, chosen.get("network", "msanet"), **chosen.get("optimizer", {}))
    data, trainer = {"crop": chosen["crop"], "random_scale": [1.0, 1.0]}, chosen["trainer"]
    tree = config.model_dump()
    return Config.model_validate({**tree, "data": {**tree["data"], **data}, "trainer": {**tree["trainer"], **trainer}})


def _measured(shards: str) -> None:
    """Prints {case: [estimated bytes, measured bytes]}, of a second step, when the optimizer has its state."""
    figures = {}
    for case in CASES:
        config = _config(shards, case)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            trainer = start(config)
            run_steps(trainer, 2)
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        now = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            now += event.nbytes()
            peak = max(peak, now)
        classes = trainer.manifest.num_classes
        build = partial(build_model, config.model.name, classes, **config.model.options)
        assert config.data.crop
        estimate = step_memory(build, config, (1,) * classes, trainer.batches, config.data.crop)
        assert estimate.activations > estimate.total / 2, "a case in which activations dominate"
        figures[case] = [estimate.total, peak]
    print("FIGURES", json.dumps(figures))


@pytest.fixture(scope="module")
def figures(shards: Path) -> dict[str, list[float]]:
    (output,) = run_ranks(1, __file__, "_measured", {"shards": shards})
    line = next(line for line in output.splitlines() if line.startswith("FIGURES"))
    return json.loads(line.removeprefix("FIGURES"))


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_within_15_percent_of_what_a_step_takes(case: str, figures: dict[str, list[float]]) -> None:
    estimate, measured = figures[case]
    assert estimate == pytest.approx(measured, rel=0.15), figures


def narrow() -> Any:
    return build_model("msanet", len(HISTOGRAM), width=0.05)


def test_activations_grow_with_the_batch_and_shrink_with_recomputation_and_bf16() -> None:
    def count(micro_batch_size: int, **trainer: Any) -> float:
        config = Config(trainer=TrainerConfig(**trainer))
        return step_memory(
            narrow, config, HISTOGRAM, BatchPlan(micro_batch_size, micro_batch_size, 1), SIZE
        ).activations

    one, two = count(1), count(2)
    assert 1.9 * one < two < 2.1 * one
    assert count(2, activation_checkpointing=True) < 0.7 * two
    assert count(2, precision="bf16") < 0.8 * two


def test_counting_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    step_memory(narrow, Config(), HISTOGRAM, BatchPlan(1, 1, 1), SIZE)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "moments", "average"),
    [(0, 400, 0, 800, 400), (1, 500, 0, 200, 400), (2, 500, 100, 200, 400), (3, 600, 100, 200, 100)],
)
def test_zero_divides_what_it_says(stage: Any, weights: int, gradients: int, moments: int, average: int) -> None:
    no_buckets = {"zero_optimization": {"reduce_bucket_size": 0}}
    config = Config(trainer=TrainerConfig(zero_stage=stage, ema_decay=0.99), deepspeed=no_buckets)
    found = state_bytes(100, config, BatchPlan(8, 1, 4))
    assert found == StepMemory(weights, gradients, moments, average, buckets=0, activations=0)
    sgd = config.model_copy(update={"optimizer": OptimizerConfig(name="sgd")})
    assert state_bytes(100, sgd, BatchPlan(8, 1, 4)).optimizer == moments / 2


def test_memory_in_words() -> None:
    memory = StepMemory(weights=78e6, gradients=0, optimizer=1.6e9, average=0, buckets=0, activations=18.14e9)
    assert memory.parts == "activations 18.1, optimizer 1.60, weights 0.08" and gigabytes(memory.total) == "19.8"
