"""What benchmarks/gpu.py would do on a GPU, as far as a CPU can show it: words, bounds, time limits, tables, and a rehearsal."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import torch
from torch._subclasses import FakeTensorMode

from conftest import REPOSITORY, write_camvid
from msanet.config import parse_config
from msanet.data.loader import evaluation_loader, plan_batches
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import LocalStorage
from msanet.datasets import CAMVID
from msanet.models import MODELS, build_model
from msanet.training.memory.estimate import step_memory
from test_benchmarks import benchmark

SPLIT_SECOND = "import time; time.sleep(0.2)"
HANGS = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(1000)
"""


def options(out: Path, *only: str, **more: Any) -> argparse.Namespace:
    return argparse.Namespace(shards=out / "shards", out=out, only=list(only), rehearse=False, **more)


class _Parsed(Exception):
    """The words of a part are valid."""


def test_all_words_are_valid_and_bounds_leave_time_for_camvid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = benchmark("gpu", monkeypatch)
    parsers = {name: getattr(argparse.ArgumentParser, name) for name in ("parse_args", "parse_intermixed_args")}

    def parsed(parse: Any, *args: Any) -> Any:
        parse(*args)
        raise _Parsed

    for name, part in gpu.PARTS.items():
        program, *words = gpu.command(name, part, options(tmp_path), 100)
        if program == "-m pytest":
            assert all((REPOSITORY / word).is_file() for word in words if word.startswith("tests/"))
            continue
        module = benchmark(program.removesuffix(".py"), monkeypatch)
        with monkeypatch.context() as patch, pytest.raises(_Parsed):
            patch.setattr(sys, "argv", [program, *words])
            for method, parse in parsers.items():
                patch.setattr(argparse.ArgumentParser, method, lambda *args, parse=parse: parsed(parse, *args))
            module.main()
    assert sum(part.seconds for name, part in gpu.PARTS.items() if name != gpu.LAST_PART) < 12 * 60


def test_rows_of_memory_are_there_and_few(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, memory = benchmark("gpu", monkeypatch), benchmark("memory", monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    wanted = gpu.command("memory", gpu.PARTS["memory"], options(Path("/x")), 100)[4:]
    names = [memory._true_size(row) for row, (ranks, _) in memory.ROWS.items() if ranks == 1]
    chosen = {word: [name for name in names if word in name] for word in wanted}
    assert all(chosen.values()) and sum(map(len, chosen.values())) <= 8, chosen


@pytest.mark.full
def test_the_full_resolution_step_fits_into_a_gpu() -> None:
    """By the planner, 2048x1024 at full width in bf16, on fake tensors of a CPU: a backward pass on CUDA's needs a GPU."""
    tree = {"data": {"crop": [1024, 2048]}, "trainer": {"steps": 10, "global_batch_size": 1, "precision": "bf16"}}
    build = partial(build_model, "msanet", 21, width=1.0)
    needed = step_memory(build, parse_config(tree, "test"), (1,) * 21, plan_batches(1, None, 1), (1024, 2048), "cpu")
    assert 5e9 < needed.total < 80e9, needed


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows no CUDA")
def test_networks_run_on_fake_cuda_tensors() -> None:
    for name in MODELS:
        with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
            model = build_model(name, 21, width=0.25)
            assert model.eval()(torch.empty(1, 3, 256, 512)).shape == (1, 21, 256, 512)


def test_epochs_are_what_fits_and_stay_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = benchmark("gpu", monkeypatch)
    assert gpu.epochs_in(-20, tmp_path) == 2
    (tmp_path / "camvid.epochs").unlink()
    (tmp_path / "precision.json").write_text(json.dumps({"training_images_per_second": 100}))
    assert gpu.epochs_in(367, tmp_path) == 75 == gpu.epochs_in(100, tmp_path), (
        "a run that is resumed keeps its schedule"
    )


@pytest.mark.full
def test_a_part_that_hangs_or_fails_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is killed with its children, those in other sessions too; and the same command again runs what is not done."""
    gpu, part = benchmark("gpu", monkeypatch), benchmark("gpu", monkeypatch).Part
    scripts = {"hangs": HANGS, "fails": "raise SystemExit('a reason')", "works": SPLIT_SECOND, "late": SPLIT_SECOND}
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    parts = {name: part(90, str(tmp_path / f"{name}.py"), str(tmp_path / "child"), "") for name in scripts}
    parts["hangs"] = part(25, *list(vars(parts["hangs"]).values())[1:])
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(gpu, "command", lambda name, part, args, seconds: [part.program, part.words])
    assert gpu.run_parts(options(tmp_path, "hangs", "fails", "works"), parts, time.monotonic() + 300) == 1
    record = json.loads((tmp_path / "parts.json").read_text())
    outcomes = {name: one["outcome"].split(",")[0] for name, one in record["parts"].items()}
    assert outcomes == {"hangs": "ended", "fails": "failed with exit code 1", "works": "done"}
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))
    out = capfd.readouterr().out
    assert "a reason" in out and "error: not done: hangs, fails;" in out
    (tmp_path / "fails.py").write_text(SPLIT_SECOND)
    assert gpu.run_parts(options(tmp_path, "fails", "works"), parts, time.monotonic() + 300) == 0
    assert "works" not in capfd.readouterr().out
    assert gpu.run_parts(options(tmp_path, "late"), parts, time.monotonic()) == 1
    assert "late: no time left" in capfd.readouterr().out


@pytest.mark.full
def test_what_is_carried_is_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes in CamVid's order, exact labels, void ignored; and the wheels are pinned ones."""
    carry, fetched = benchmark("gpu_carry", monkeypatch), []
    monkeypatch.setattr(carry.subprocess, "run", lambda command, check: fetched.append([str(word) for word in command]))
    source = write_camvid(tmp_path / "source", train=3, val=2)
    monkeypatch.setattr(sys, "argv", ["gpu_carry.py", str(source), str(tmp_path / "carry"), "--images", "2"])
    assert carry.main() == 0
    storage = LocalStorage(tmp_path / "carry" / "shards")
    manifest = read_manifest(storage)
    assert manifest.classes == CAMVID.classes and manifest.palette == CAMVID.palette
    samples = list(evaluation_loader(ShardSource(storage, "val"), 0, 1, workers=0))
    assert len(samples) == 2 == len(ShardSource(storage, "train"))
    for sample, path in zip(samples, sorted((source / "valannot").iterdir()), strict=True):
        expected = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert expected is not None
        assert (sample.label_HW.numpy() == np.where(expected == 11, 255, expected)).all()
    words = {word for command in fetched for word in command if "==" in word}
    assert len(words) == len(carry.PACKAGES) and any(word.startswith("deepspeed==") for word in fetched[1])


def tables(out: Path, docs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu_tables.py", str(out), "--docs", str(docs)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.mark.full
def test_a_rehearsal_runs_the_parts_and_fills_the_tables(tmp_path: Path, shards: Path) -> None:
    """Those that take seconds; `benchmarks/gpu.sh SHARDS OUT --rehearse` runs all."""
    out, docs, only = tmp_path / "out", tmp_path / "docs", ("step-full", "precision", "attention", "camvid")
    command = [str(REPOSITORY / "benchmarks" / "gpu.sh"), os.path.relpath(shards, tmp_path), "out", "--rehearse"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "--only", *only], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    docs.mkdir()
    for page in ("performance.md", "results.md"):
        shutil.copy(REPOSITORY / "docs" / page, docs)
    made = tables(out, docs)
    assert made.returncode == 0 and "memory: not measured" in made.stdout, made.stdout + made.stderr
    performance, results = ((docs / name).read_text() for name in ("performance.md", "results.md"))
    for name, text in zip(only, (performance, performance, performance, results), strict=True):
        section = text.partition(f"<!-- gpu: {name} -->")[2].partition("<!-- /gpu -->")[0]
        assert "| --- |" in section and f"part `{name}`" in section and "not yet measured" not in section
    refused = tables(out, REPOSITORY / "docs")
    assert refused.returncode == 2 and "is of a rehearsal" in refused.stdout


def test_every_part_has_a_section_in_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, made = benchmark("gpu", monkeypatch), benchmark("gpu_tables", monkeypatch)
    text = "".join((REPOSITORY / "docs" / page).read_text() for page in made.PAGES)
    sections = [section[2] for section in made.SECTION.finditer(text)]
    assert sorted(sections) == sorted(made.TABLES) == sorted(set(gpu.PARTS) - {"tests"})


def test_tables_of_figures_that_time_has_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    made = benchmark("gpu_tables", monkeypatch)
    steps = {
        "settings": {"size": [224, 224], "batch": 16},
        "images_per_second": {"a": [100.0, 120.0], "b": [60.0]},
        "peak_bytes": {"a": 2e9, "b": 3e9, "c": 1e9},
        "left_out": {"c": "does not fit"},
        "tflop_an_image": 0.5,
        "matmul_tflops": 550.0,
    }
    lines = made.of_steps(steps).splitlines()
    assert lines[2] == "| a | 0.145 | 110 | 1 | 2 | 55 | 10% |" and lines[4].startswith("| c: does not fit |")
    ways = {"plain": {"preparation": 1, "latency": [0.2], "batch": [0.4]}, "compiled": {"preparation": 9}}
    found = made.of_inference({"size": [8, 8], "batch": 4, "networks": {"unet": ways}})
    assert found.splitlines()[2:] == ["| unet | plain | 200 | 1 | 10 |"]


def test_gpu_sh_is_clean_and_installs_wheels(tmp_path: Path) -> None:
    """By a stand-in for Python: paths are those of where it was started, and wheels come before what is installed."""
    script = REPOSITORY / "benchmarks" / "gpu.sh"
    checked = subprocess.run([Path(sys.executable).parent / "shellcheck", script], capture_output=True, text=True)
    assert checked.returncode == 0 and os.access(script, os.X_OK), checked.stdout
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").touch()
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/usr/bin/env bash\nprintf "%s " "$PWD" "$PYTHONPATH" "$@" >>"$CALLS"; echo >>"$CALLS"\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": "before", "CALLS": "calls"}
    command = [str(script), "shards", "out dir", "--wheels", "wheels", "--minutes", "9"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pip, run = (tmp_path / "calls").read_text().splitlines()
    site = run.split()[1].removesuffix(":before")
    assert f"--no-index --no-deps --no-compile --no-cache-dir --target {site} {tmp_path}/wheels/a.whl" in pip
    assert run.split()[0] == str(tmp_path) and run.endswith("benchmarks/gpu.py shards out dir --minutes 9 ")
    assert not Path(site).exists()
