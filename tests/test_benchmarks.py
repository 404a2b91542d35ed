"""Benchmarks keep what they have measured, and benchmarks/gpu.sh runs from anywhere, by stand-ins for a machine with a GPU."""

import importlib.util
import json
import os
import shutil
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

TOOLS = "bash dirname env mkdir realpath tee timeout touch"
PYTHON = """#!/usr/bin/env bash
case "$*" in
    *is_available* | *pytest,*) ;;
    *device_count*) echo 1 2 ;;
    *) [[ $PYTHONPATH = "$PWD":before ]] && printf '%s\\n' "$*" >>"$CALLS" ;;
esac
"""


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

    names = {"a": subject(None, 0), "a, compiled": subject(OSError, 0), "b": subject(KeyboardInterrupt, 2)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(step, "SUBJECTS", names)
    args = SimpleNamespace(size=(8, 8), batch=1, width=1.0, steps=1, rounds=3, only=list(names), json=file)
    with pytest.raises(KeyboardInterrupt):
        step.measure(args)
    speeds = json.loads(file.read_text())["images_per_second"]
    assert {name: len(own) for name, own in speeds.items()} == {"a": 2, "b": 1}
    monkeypatch.setattr(step, "SUBJECTS", {"a": subject(OSError, 0)})
    with pytest.raises(OSError, match="inductor"):
        step.measure(SimpleNamespace(**{**vars(args), "only": ["a"]}))


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


def gpu_sh(place: Path, shards: str) -> subprocess.CompletedProcess[str]:
    """The script in a folder of its own, with relative paths and no more on PATH than it needs."""
    tools = place / "bin"
    tools.mkdir()
    for name in TOOLS.split():
        (tools / name).symlink_to(shutil.which(name) or "")
    for name, content in (("python3", PYTHON), ("nvidia-smi", "#!/usr/bin/env bash\n")):
        (tools / name).write_text(content)
        (tools / name).chmod(0o755)
    own = {"PATH": str(tools), "PYTHONPATH": "before", "CALLS": str(place / "calls")}
    command = [str(REPOSITORY / "benchmarks" / "gpu.sh"), shards, "out"]
    return subprocess.run(command, cwd=place, env=own, capture_output=True, text=True)


def test_gpu_sh_measures_all_with_paths_of_where_it_was_started(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "dataset.json").write_text("{}")
    done = gpu_sh(tmp_path, "shards")
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    parts = ["-m", *(line.split()[0] for line in calls[1:])]
    assert len(calls) == 9 == len(list((tmp_path / "out").glob("*.done"))) and set(parts[1:]) == {
        f"benchmarks/{name}.py" for name in ("attention", "step", "memory", "inference", "scaling", "convergence")
    }
    assert f"--shards {tmp_path}/shards --out {tmp_path}/out/runs" in calls[-1] and "--ranks 1 2 --json" in calls[-2]


def test_gpu_sh_wants_shards(tmp_path: Path) -> None:
    done = gpu_sh(tmp_path, "nowhere")
    assert done.returncode == 2 and done.stdout.startswith(f"error: '{tmp_path}/nowhere' has no dataset.json")
    assert not (tmp_path / "out").exists()


def test_gpu_sh_is_clean_and_names_what_is_there() -> None:
    script = REPOSITORY / "benchmarks" / "gpu.sh"
    checked = subprocess.run([Path(sys.executable).parent / "shellcheck", script], capture_output=True, text=True)
    assert checked.returncode == 0 and os.access(script, os.X_OK), checked.stdout
    words = script.read_text().split()
    files = [word for word in words if word.startswith(("tests/", "benchmarks/")) and word != "benchmarks/gpu.sh"]
    assert len(files) > 10 and all((REPOSITORY / word).is_file() for word in files)
