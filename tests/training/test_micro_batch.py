"""trainer.micro_batch_size=auto: what is chosen and logged, and that a resumed run keeps its micro-batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import REPOSITORY
from msanet import distributed
from msanet.config import Config, TrainerConfig, parse_config, settings
from msanet.data.loader import BatchPlan, plan_batches
from msanet.data.manifest import Manifest, load_manifest
from msanet.errors import UserError
from msanet.models import build_model
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.checkpoint.io import write_checkpoint
from msanet.training.memory import auto_batch_size, available
from msanet.training.memory.auto_batch_size import choose_batch_plan, largest_micro_batch
from msanet.training.memory.estimate import StepMemory
from msanet.training.trainer import Trainer
from support.commands import words
from support.errors import raises_user_error
from support.ranks import run_ranks
from support.small_runs import newest, run_steps, small_config

GB = 1e9


def _needed(count: int) -> StepMemory:
    """10 GB an image, and 2 GB of weights."""
    return StepMemory(weights=2 * GB, gradients=0, optimizer=0, average=0, buckets=0, activations=10 * GB * count)


@pytest.mark.parametrize(
    ("free", "before", "chosen"),
    [
        (80, None, 6),  # 62 GB, 15 percent and 1 GB are 72.3
        (72, None, 3),  # not 4 or 5, which do not divide the 6 images
        (15, None, 1),
        (72, 6, 6),  # as before, since it fits without the margin
        (61, 6, 3),
        (80, 2, 2),
        (80, 4, 6),  # the number of ranks is another
    ],
)
def test_the_largest_divisor_that_fits(free: float, before: int | None, chosen: int) -> None:
    plan = largest_micro_batch(Config(), plan_batches(12, "auto", 2), _needed, free * GB, before)
    assert plan == BatchPlan(12, chosen, 2)


def test_where_not_one_image_fits() -> None:
    sentence = (
        "one image takes about 14.8 GB a rank (activations 10.0, weights 2.00; the rest is margin), expected no more than "
        "the 14.0 GB that are free; set a smaller data.crop, or trainer.precision=bf16, or trainer.activation_check"
    )
    with raises_user_error("MSA-TRAIN-005", setting="trainer.micro_batch_size", mentions=sentence):
        largest_micro_batch(Config(), plan_batches(12, "auto", 2), _needed, 14 * GB)


def _auto(shards: str, **trainer: Any) -> tuple[Config, Manifest]:
    tree = small_config(shards, 0).model_dump()
    tree["trainer"] |= {"global_batch_size": 12, "micro_batch_size": "auto", **trainer}
    return Config.model_validate(tree), load_manifest(Path(shards))


def test_an_unknown_size_is_refused(shards: Path) -> None:
    config, manifest = _auto(str(shards))
    unknown = config.model_copy(update={"data": config.data.model_copy(update={"crop": None})})
    with raises_user_error("MSA-TRAIN-006", setting="trainer.micro_batch_size"):
        choose_batch_plan(unknown, manifest, None)


def _start(shards: str, free: float, saved: Checkpoint | None) -> Trainer:
    config, manifest = _auto(shards)
    # Half of a host's memory for each of its two ranks, and rank 1 sees less of it.
    available.free_host_memory = lambda root=Path("/"): int(free) * 2 * (10 - 9 * distributed.rank())
    torch.manual_seed(0)
    model = build_model(config.model.name, manifest.num_classes, **config.model.options)
    return Trainer(config, manifest, model, choose_batch_plan(config, manifest, saved), saved)


def _goes_on(shards: str, folder: str) -> None:
    """The estimate of 3 images and the margin, in between those of 2 and 6; then a machine with all the memory there is."""
    config, manifest = _auto(shards)
    most = plan_batches(12, "auto", 2)
    needs = auto_batch_size.step_needs(config, manifest, most, (32, 32), "cpu")
    straight = _start(shards, (needs(3).total + needs(6).total) / 2 * 1.15 + GB, None)
    assert (straight.batches.micro_batch_size, straight.batches.accumulation) == (3, 2)
    run_steps(straight, 1)
    checkpoint = straight.checkpoint()
    if checkpoint.weights:
        write_checkpoint(Path(folder), checkpoint, keep=1)
    run_steps(straight, 1)
    torch.distributed.barrier()
    resumed = _start(shards, 1e15, newest(Path(folder)))
    assert resumed.batches == straight.batches
    run_steps(resumed, 1)
    for name, tensor in resumed.engine.module.state_dict().items():
        assert torch.equal(tensor, straight.engine.module.state_dict()[name]), name
    print("SAME BITS")


def test_the_command_reports_what_it_chose(shards: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        *words(shards, tmp_path / "run", 1, "trainer.micro_batch_size=auto", "data.num_workers=0"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trainer.micro_batch_size=auto: 4 of 4 images, about 0." in done.stderr
    assert "micro_batch_size: auto" in (tmp_path / "run" / "config.yaml").read_text()
    assert newest(tmp_path / "run" / "checkpoints").state.micro_batch_size == 4


def test_a_run_resumes_with_the_micro_batch_it_had(shards: Path, tmp_path: Path) -> None:
    first, second = run_ranks(2, __file__, "_goes_on", {"shards": shards, "folder": tmp_path})
    assert "SAME BITS" in first and "SAME BITS" in second
    assert "trainer.micro_batch_size=auto: 3 of 6 images, about 0." in first and "activations 0." in first
    assert "micro_batch_size" not in second, "one rank speaks"


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_limits_of_cgroups_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"available": 10**15})
    monkeypatch.setattr(available.psutil, "virtual_memory", lambda: memory)
    assert available.free_host_memory(tmp_path) == 10**15
    _write(tmp_path / "proc/self", cgroup="0::/pod/box\n")
    one = tmp_path / "sys/fs/cgroup/pod"
    _write(one, memory__max="8000", memory__current="5000", memory__stat="anon 1\ninactive_file 1000\n")
    _write(one / "box", memory__max="max", memory__current="3000", memory__stat="inactive_file 0\n")
    assert available.free_host_memory(tmp_path) == 4000
    two = tmp_path / "sys/fs/cgroup/memory"
    (tmp_path / "proc/self/cgroup").write_text("5:cpu:/\n4:memory,hugetlb:/elsewhere\n")  # as in a container
    _write(two, memory__limit_in_bytes="900", memory__usage_in_bytes="600", memory__stat="total_inactive_file 200\n")
    assert available.free_host_memory(tmp_path) == 500


@pytest.mark.parametrize("value", ["many", 0, -1, 1.5, True])
def test_what_is_no_micro_batch(value: Any) -> None:
    with pytest.raises(UserError, match="expected auto, a number from 1, or null"):
        parse_config({"trainer": {"micro_batch_size": value}}, "test")
    kinds = {name: kind for name, kind, *_ in settings()}
    assert kinds["trainer.micro_batch_size"] == "int or auto or null"
    assert TrainerConfig(micro_batch_size="auto").micro_batch_size == "auto"
