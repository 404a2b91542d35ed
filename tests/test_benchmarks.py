"""Benchmarks start, keep what they have measured, and name ranks that are lost."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from conftest import REPOSITORY
from msanet.models.attention.spatial import attend


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One of them as a module. What tests/support/ranks.py imports in its server for forks stays as it is."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("multiprocessing.context.BaseContext.set_forkserver_preload", lambda *_: None)
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", REPOSITORY / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LIBRARIES = (
    "harness",
    "paper",
    "peers",
    "training_peers",
    "chaos_checks",
    "chaos_faults",
    "chaos_job",
    "chaos_run",
    "chaos_scenarios",
)
"""Modules that the others import; every other file is a program."""

SHIM = str(REPOSITORY / "tests/support/torchvision_shim")
"""Of sitecustomize.py, for processes that import torchvision."""


def test_every_benchmark_imports_and_has_a_help() -> None:
    """In one process, since each imports torch."""
    programs = sorted(path for path in (REPOSITORY / "benchmarks").glob("*.py") if path.stem not in LIBRARIES)
    code = (
        "import contextlib, io, runpy, sys\n"
        "for path in sys.argv[1:]:\n"
        "    sys.argv, shown, code = [path, '--help'], io.StringIO(), None\n"
        "    with contextlib.redirect_stdout(shown):\n"
        "        try:\n"
        "            runpy.run_path(path, run_name='__main__')\n"
        "        except SystemExit as exit:\n"
        "            code = exit.code\n"
        "    assert code == 0 and 'usage: ' in shown.getvalue() and '--help' in shown.getvalue(), path\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SHIM, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code, *map(str, programs)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_memory_of_a_machine_with_one_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of two ranks are left out, and what was measured is kept when a row fails."""
    memory, file, measured = benchmark("memory", monkeypatch), tmp_path / "memory.json", []

    def measure(row: str) -> list[dict[str, float]]:
        measured.append(memory.ROWS[row][0])
        if row.startswith("attention_to_scale"):
            raise SystemExit("a rank failed")
        return [{"estimate": 1.0, "measured": 1.0}]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(memory, "_measure", measure)
    monkeypatch.setattr(sys, "argv", ["memory.py", "--json", str(file)])
    with pytest.raises(SystemExit, match="a rank failed"):
        memory.main()
    assert set(measured) == {1} and "2 on 2 ranks: left out" in capsys.readouterr().err
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == len(measured) - 1 and "msanet, 384x512, 1" in rows and "deeplabv3, 1024x1280, 4" in rows


def test_a_time_limit_leaves_the_steps_that_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a subject cannot be compiled; any other fault ends the program."""
    step, file = benchmark("step", monkeypatch), tmp_path / "step.json"

    def subject(error: type[BaseException] | None, after: int) -> Callable[..., Callable[[], None]]:
        calls: list[None] = []

        def run() -> None:
            calls.append(None)
            if error and len(calls) > after:
                raise error("inductor says no")

        return lambda batch, width: run

    names = {"a": subject(None, 0), "a, compiled": subject(OSError, 0), "b": subject(KeyboardInterrupt, 3)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(step, "matmul_tflops", lambda: 1.0)
    monkeypatch.setattr(step, "flop", lambda *_: (1e12, 1e12))
    args = SimpleNamespace(size=(8, 8), batch=1, width=0.05, steps=1, rounds=3, kernels=False, json=file)
    with pytest.raises(KeyboardInterrupt):
        step.measure(args, names)
    found = json.loads(file.read_text())
    assert {name: len(own) for name, own in found["images_per_second"].items()} == {"a": 2, "b": 1}
    assert found["left_out"] == {"a, compiled": "inductor says no"}
    with pytest.raises(OSError, match="inductor"):
        step.measure(args, {"a": subject(OSError, 0)})


def test_inference_compiles_before_it_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps what it has where one way cannot be compiled."""
    inference, compiled, found = benchmark("inference", monkeypatch), [], []
    compile_, file = torch.compile, tmp_path / "inference.json"

    def backend(graph: Any, _: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            raise OSError("inductor says no")
        compiled.append(graph)
        return graph.forward

    def turns(subjects: dict[str, Callable[[], float]], *_: Any) -> None:
        found.append(len(compiled))
        for subject in subjects.values():
            subject()
        found.append(len(compiled))
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: compile_(model, dynamic=dynamic, backend=backend))
    monkeypatch.setattr(inference, "build_model", lambda *_, **__: nn.Conv2d(3, 19, 1))
    monkeypatch.setattr(inference, "IS_GPU", False)
    monkeypatch.setattr(inference, "in_turns", turns)
    monkeypatch.setattr(sys, "argv", ["inference.py", "--networks", "unet", "--size", "8", "8", "--json", str(file)])
    with pytest.raises(KeyboardInterrupt):
        inference.main()
    assert found == [4, 4], "fp32 in both orders, one image and two"
    ways = json.loads(file.read_text())["networks"]["unet"]
    assert len(ways) == 5 and all(way["preparation"] > 0 for way in ways.values())


def test_a_kernel_that_does_not_fit_is_not_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = benchmark("training_peers", monkeypatch)
    tensors = [torch.randn(1, 12, 8, requires_grad=True) for _ in range(3)]
    used: dict[Any, Any] = {}
    with peers.only_kernel("flash", used):
        attend(*tensors)
    assert {choice.kernel for choice in used.values()} == {"flash"}
    with peers.only_kernel("cudnn", {}), pytest.raises(RuntimeError, match="cudnn does not fit"):
        attend(*tensors)
    attend(*tensors)


@pytest.mark.full
def test_a_lost_rank_is_named(tmp_path: Path) -> None:
    file = tmp_path / "lost.json"
    command = [sys.executable, "benchmarks/lost_rank.py", "--faults", "killed", "--json", str(file)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())["faults"]["killed"]
    assert found["names_the_rank"] and found["exit_codes"] == [1] and len(found["error_codes"]) == 1


def test_ranks_that_share_a_gpu_are_hosts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lost_rank = benchmark("lost_rank", monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    first, second = lost_rank.environments(2)
    assert first["LOCAL_RANK"] == second["LOCAL_RANK"] == "0" and first["NCCL_HOSTID"] != second["NCCL_HOSTID"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert lost_rank.environments(2)[1]["LOCAL_RANK"] == "1" and "NCCL_HOSTID" not in lost_rank.environments(2)[0]
