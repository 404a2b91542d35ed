"""One image across ranks: the same attention, steps, figures and files as one rank has, for any groups of ranks."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch.utils.checkpoint import checkpoint

from conftest import REPOSITORY
from msanet import distributed
from msanet.config import Config, parse_config
from msanet.data.loader import BatchPlan, batch_plan, plan_batches
from msanet.data.manifest import load_manifest
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.errors import UserError
from msanet.models import build_model
from msanet.models.attention.spatial import attend
from msanet.models.msam import MSAM, LevelConv
from msanet.training.checkpoint.checkpointer import rng_state
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.checkpoint.io import write_checkpoint
from msanet.training.engine import context_parallel, zero_state
from msanet.training.engine.context_parallel import (
    _gathered,
    context_parallel_attention,
    other_images_group,
    parallelize_attention,
    same_image_group,
)
from msanet.training.nonfinite.failure_dump import read_failure_dump
from msanet.training.run_folder import RunFolder
from msanet.training.trainer import Trainer
from support.errors import raises_user_error
from support.ranks import run_ranks
from support.small_runs import newest, validate

STEPS = 3


def _config(shards: str, folder: Path, trainer: dict[str, Any], **options: Any) -> Config:
    """Crops have padding, so that labelled pixels are unequally held."""
    return parse_config(
        {
            "run": {"dir": str(folder), "record_samples": True},
            "data": {
                "path": shards,
                "crop": [32, 40],
                "random_scale": [0.5, 1.0],
                "num_workers": 0,
                "on_bad_sample": "skip",
                "max_bad_fraction": 1.0,
            },
            "model": {"name": "msanet", "width": 0.05, **options},
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            "trainer": {"steps": STEPS, "global_batch_size": 4, "max_nonfinite_steps": 0, **trainer},
            "evaluation": {"num_workers": 0, "panels": 0},
        },
        "test",
    )


def _start(config: Config, saved: Checkpoint | None = None) -> Trainer:
    """In float64, so that only a wrong formula can make a difference; DeepSpeed's reduction must be told that it may."""
    manifest = load_manifest(Path(config.data.source))
    torch.manual_seed(0)
    model = build_model("msanet", manifest.num_classes, **config.model.options)
    if config.trainer.precision == "fp32":
        model.double().register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
        get_accelerator().supported_dtypes = lambda: [torch.float32, torch.float64]
    return Trainer(config, manifest, model, batch_plan(config, distributed.world_size()), saved)


def _train(
    shards: str, folder: str, name: str, steps: int = 2, resume: str = "", judge: bool = True, **settings: Any
) -> Trainer:
    """Train with a validation after the first step; rank 0 writes what came of each step, and the state after all."""
    config = _config(shards, Path(folder) / name, settings.pop("trainer", {}), **settings)
    trainer = _start(config, newest(Path(folder) / resume / "checkpoints") if resume else None)
    source, run = ShardSource(LocalStorage(Path(shards)), "val", trainer.manifest), RunFolder(config, trainer.manifest)
    done: list[Any] = []
    (Path(folder) / name).mkdir(exist_ok=True)
    for number, micro_batches in enumerate(trainer.global_batches(), trainer.state.step + 1):
        run.record(number, micro_batches)
        trainer.train_step(micro_batches)
        judged = validate(trainer, source) if judge and number == 1 else None
        weights = zero_state.gather_weights(trainer.engine)
        done.append((weights, trainer.metrics()["loss"], judged and judged.protocol_scores.scores.mean_iou))
        if number == steps:
            break
    saved = trainer.checkpoint()
    if distributed.is_main():
        torch.save(done, Path(folder) / name / "done.pt")
        write_checkpoint(Path(folder) / name / "checkpoints", saved, keep=1)
    return trainer


def _one_rank(shards: str, folder: str) -> None:
    _train(shards, folder, "batch", STEPS)
    _train(shards, folder, "group", norm="group")


def _four_ranks(shards: str, folder: str) -> None:
    _compare_attention()
    _compare_module()
    sync = {"context_parallel_size": 2, "sync_batchnorm": True, "activation_checkpointing": True}
    trainer = _train(shards, folder, "batch 2 2", trainer=sync)
    _check_what_is_alike(trainer)
    _train(
        shards,
        folder,
        "group 4 4",
        trainer={"context_parallel_size": 4, "micro_batch_size": 2, "zero_stage": 1},
        norm="group",
        judge=False,
    )
    _train(
        shards,
        folder,
        "group 2 2",
        trainer={"context_parallel_size": 2, "micro_batch_size": 1, "zero_stage": 3},
        norm="group",
    )
    other = _train(shards, folder, "resumed on 4", STEPS, "batch 2 2", trainer={**sync, "context_parallel_size": 4})
    assert len(set(map(_numbers, distributed.gather_objects(rng_state()["cpu"])))) == 1
    assert other.batches.groups == 1
    _train(
        shards,
        folder,
        "bf16",
        trainer={"context_parallel_size": 2, "precision": "bf16", "micro_batch_size": 1},
        norm="group",
        judge=False,
    )
    _diverge(shards, folder)


def _compare_attention() -> None:
    """Groups of 4 and of 2 against one rank; 37 positions are no one's multiple, 3 leave a rank of 4 nothing but padding."""
    for dtype, length, ranks in (
        (torch.float32, 37, 4),
        (torch.float32, 3, 4),
        (torch.float64, 36, 2),
        (torch.bfloat16, 37, 2),
    ):
        group = same_image_group(BatchPlan(4, 1, 4, ranks))
        torch.manual_seed(distributed.rank() // ranks)
        maps = [torch.randn(2, length, 8, dtype=dtype).requires_grad_() for _ in range(3)]
        d_output = torch.randn(2, length, 8, dtype=dtype)
        results = []
        for attention in (attend, lambda q, k, v, group=group: context_parallel_attention(q, k, v, group)):
            output = attention(*maps)
            results.append([output.detach(), *torch.autograd.grad(output, maps, d_output)])
        tolerance = 2e-2 if dtype == torch.bfloat16 else None
        for whole, shared in zip(*results, strict=True):
            torch.testing.assert_close(shared, whole, rtol=tolerance, atol=tolerance)


def _compare_module() -> None:
    """With pooled keys and values, and recomputed; in evaluation, or without gradients, a rank attends by itself."""
    torch.manual_seed(0)
    module = MSAM([LevelConv(3, 4, 3, 1, 1)], norm="group", pool=2).double()
    image = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    alone = module([image])
    parallelize_attention(module, same_image_group(BatchPlan(1, 1, 4, 4)))
    with mock.patch.object(context_parallel, "_gathered", wraps=_gathered) as sent:
        shared = checkpoint(module, [image], use_reentrant=False)
        shared.sum().backward()
    assert sent.call_count == 2, "outputs and the gradients of queries, and no outputs for the recomputation"
    torch.testing.assert_close(shared, alone)
    if distributed.rank() == 1:
        with torch.no_grad():
            torch.testing.assert_close(module([image]), alone)
        torch.testing.assert_close(module.eval()([image]), alone)


def _check_what_is_alike(trainer: Trainer) -> None:
    """Generators within a group and only there; a bad sample of a group counts once, though two ranks have it."""
    first, second, third, fourth = map(_numbers, distributed.gather_objects(rng_state()["cpu"]))
    assert first == second != third == fourth
    batch = next(trainer.global_batches())[0]
    faults = ("sample 5 is damaged",) if distributed.rank() < 2 else ()
    trainer._count_labels([dataclasses.replace(batch, bad_samples=faults)])
    assert trainer.bad_samples == 1
    alone = other_images_group(trainer.batches)
    assert dist.get_process_group_ranks(alone) == [distributed.rank() % 2, distributed.rank() % 2 + 2]


def _numbers(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


def _diverge(shards: str, folder: str) -> None:
    """The second group's loss is not finite, which ends the run with a failure dump."""
    trainer = _start(_config(shards, Path(folder) / "diverged", {"context_parallel_size": 2}, norm="group"))
    (Path(folder) / "diverged").mkdir(exist_ok=True)
    if distributed.rank() >= 2:
        trainer.engine.module.classifier.register_forward_hook(lambda module, inputs, output: output * torch.nan)
    trainer.train_step(next(trainer.global_batches()))
    with raises_user_error("MSA-TRAIN-002", mentions="the loss of ranks 2, 3"):
        trainer.metrics()


def _resumed_on_one_rank(shards: str, folder: str) -> None:
    _train(shards, folder, "resumed on 1", STEPS, "batch 2 2")


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all the trainings above, each run only once."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = {"shards": str(shards), "folder": str(folder)}
    run_ranks(1, __file__, "_one_rank", arguments)
    run_ranks(4, __file__, "_four_ranks", arguments)
    run_ranks(1, __file__, "_resumed_on_one_rank", arguments)
    return folder


@pytest.mark.parametrize(
    ("one", "several", "steps"),
    [
        ("batch", "batch 2 2", [1, 2]),  # synchronized BatchNorm, recomputation
        ("group", "group 4 4", [1, 2]),  # ZeRO 1, accumulation
        ("group", "group 2 2", [1, 2]),  # ZeRO 3, accumulation
        ("batch", "resumed on 4", [3]),
        ("batch", "resumed on 1", [3]),
    ],
)
def test_groups_of_ranks_train_as_one_rank_does(trained: Path, one: str, several: str, steps: list[int]) -> None:
    """Weights and loss after each step, and a validation after the first, in which all ranks have other images.

    DeepSpeed reduces gradients, and checkpoints keep weights, in float32: from the second step on the losses differ by what
    that rounds away, and by ReLUs near 0 that it switches, which depends on the CPU (1e-8 to 2e-5 of the loss, weights by 2e-4).
    """
    expected, found = (torch.load(trained / name / "done.pt") for name in (one, several))
    for step, (weights, loss, score) in zip(steps, found, strict=True):
        expected_weights, expected_loss, expected_score = expected[step - 1]
        assert loss == pytest.approx(expected_loss, rel=1e-12 if step == 1 else 1e-4)
        assert score is None if several == "group 4 4" else score == expected_score
        for name, weight in expected_weights.items():
            rtol, atol = (1e-5, 1e-6) if step == 1 else (1e-2, 1e-3)
            torch.testing.assert_close(weights[name], weight, rtol=rtol, atol=atol, msg=f"{name} after step {step}")


def test_training_in_bf16_goes_as_in_fp32(trained: Path) -> None:
    losses, expected = ([loss for _, loss, _ in torch.load(trained / name / "done.pt")] for name in ("bf16", "group"))
    assert losses[0] == pytest.approx(expected[0], rel=0.01) and losses == pytest.approx(expected, rel=0.1)


def _samples_taken(folder: Path) -> dict[str, list[list[int]]]:
    """{file: samples of each step}."""
    return {
        file.name: [json.loads(line)["samples"] for line in file.read_text().splitlines()]
        for file in sorted(folder.glob("samples-*.jsonl"))
    }


def test_a_group_takes_one_sample_and_its_first_rank_says_so(trained: Path) -> None:
    (alone,), grouped = _samples_taken(trained / "group").values(), _samples_taken(trained / "group 2 2")
    assert list(grouped) == ["samples-00000.jsonl", "samples-00002.jsonl"]
    assert [sum(step, []) for step in zip(*grouped.values(), strict=True)] == alone


def test_a_black_box_has_one_rank_of_the_group_at_fault(trained: Path) -> None:
    box = read_failure_dump(trained / "diverged" / "failure_dump" / "step-00000001")
    assert box.about.faulty == [2, 3] and list(box.records) == [2]
    first = _samples_taken(trained / "group 2 2")["samples-00002.jsonl"][0]
    assert [number for _, number, _ in box.samples(2)] == first
    (line,) = map(json.loads, (trained / "diverged" / "anomalies.jsonl").read_text().splitlines())
    assert [sample["sample"] for sample in line["samples"]] == first


def test_checkpoints_keep_a_generator_for_each_group(trained: Path) -> None:
    assert newest(trained / "batch 2 2" / "checkpoints").rng.keys() == {"0.cpu", "1.cpu"}


def test_numbers_of_ranks_that_do_not_fit() -> None:
    assert plan_batches(4, None, 8, context_parallel_size=4) == BatchPlan(4, 2, 8, 4)
    with pytest.raises(
        UserError,
        match=r"context_parallel_size=4 does not divide the 6 ranks .*; set it to 1 or 2 or 3 or 6, or start 8",
    ):
        plan_batches(4, None, 6, context_parallel_size=4)
    with pytest.raises(
        UserError, match=r"=2 cannot be shared by 3 groups of 2 ranks; start 2 or 4 ranks, or set it to 3 or 3|6"
    ):
        plan_batches(2, None, 6, context_parallel_size=2)


def test_networks_whose_attention_cannot_be_shared_out_are_refused() -> None:
    group: Any = SimpleNamespace(size=lambda: 2)
    for name, options in (("unet", {}), ("msanet", {"attention": "none"}), ("msanet", {"attention": "fusion"})):
        with raises_user_error("MSA-TRAIN-008", setting="trainer.context_parallel_size"):
            parallelize_attention(build_model(name, 2, width=0.05, **options), group)
    with raises_user_error("MSA-TRAIN-009", setting="trainer.context_parallel_size"):
        parallelize_attention(build_model("msanet", 2, width=0.05, attention_window=8), group)


def test_the_launcher_refuses_with_code_2(shards: Path, tmp_path: Path) -> None:
    words = [
        "launcher/train.py",
        f"data.path={shards}",
        f"run.dir={tmp_path / 'run'}",
        "trainer.context_parallel_size=2",
    ]
    said = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert said.returncode == 2 and "trainer.context_parallel_size=2 does not divide the 1 ranks" in said.stderr, (
        said.stderr
    )
    assert not (tmp_path / "run").exists()
