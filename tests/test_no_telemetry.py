"""No command speaks to anyone but this machine: none of ours, and no library that reports its use to its maker."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from conftest import REPOSITORY, write_camvid
from msanet.telemetry import disable_telemetry

_CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
_ADDRESS = re.compile(r'(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"')
_OWN = re.compile(r"127\.|0\.0\.0\.0|::1$|::ffff:127\.|::$")
_SMALL = "data.crop=[32,40] data.num_workers=1 model.name=unet model.width=0.05 trainer.global_batch_size=4 trainer.epochs=0.3"
_TRACE = ("unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', "strace", "-f", "-qq")


def trace(log: Path, *words: object, seconds: float | None = None, **environment: str) -> None:
    """Run a Python command in a network of its own, and list what it says to whom; stop it after `seconds`, if given."""
    command = [*_TRACE, "--seccomp-bpf", "-e", _CALLS, "-o", str(log), sys.executable, *map(str, words)]
    own = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore", **environment}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=own, stdout=-1, stderr=-2, text=True, process_group=0
    ) as process:
        if seconds:
            time.sleep(seconds)
            assert process.poll() is None, process.communicate()
            os.killpg(process.pid, signal.SIGINT)
        output = process.communicate(timeout=300)[0]
    assert seconds or process.returncode == 0, output


def others(log: Path) -> set[str]:
    """The addresses beyond this machine that were spoken to."""
    return {found for found in _ADDRESS.findall(log.read_text()) if not _OWN.match(found)}


@pytest.fixture(scope="module", autouse=True)
def _can_trace(tmp_path_factory: pytest.TempPathFactory) -> None:
    missing = [program for program in ("strace", "unshare", "ip") if not shutil.which(program)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: cannot see what a command says to whom")
    log = tmp_path_factory.mktemp("trace") / "log"
    speak = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect_ex(('198.51.100.1', 443))"
    try:
        trace(log, "-c", speak)
    except AssertionError as error:
        pytest.skip(f"not allowed to trace in a network of one's own: {str(error)[:200]}")
    assert others(log) == {"198.51.100.1"}, "the trace sees what it should"


def test_no_command_speaks_to_anyone_else(tmp_path: Path) -> None:
    source = write_camvid(tmp_path / "source", train=8, val=2)
    shards, run, log = tmp_path / "shards", tmp_path / "run", tmp_path / "log"
    picture, small = next((source / "val").iterdir()), _SMALL.split()
    own = ("evaluation.num_workers=0", "evaluation.panels=1")
    commands: list[tuple[object, ...]] = [
        ("pack", "camvid", "--source", source, "--out", shards),
        ("train", f"data.path={shards}", f"run.dir={run}", *small, *own),
        ("evaluate", "--run", run),
        ("predict", "--run", run, "--images", picture, "--out", tmp_path / "out"),
    ]
    for words in commands:
        trace(log, "-m", "msanet", *words)
        assert not others(log), words
    pytest.importorskip("flask", reason="the demo page needs it")
    trace(log, "-m", "msanet", "serve", "--run", run, "--port", 0, seconds=12)
    assert not others(log), "serve"


def test_an_export_speaks_to_nobody(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="exports need it (extra `export`)")
    import torch

    from msanet.models.io import save_network
    from support.metadata import metadata

    own = metadata("unet", width=0.05)
    torch.manual_seed(0)
    save_network(tmp_path / "model.safetensors", own.build().state_dict(), own)
    words = ("export", "--checkpoint", tmp_path / "model.safetensors", "--to", "onnx", "--out", tmp_path / "model.onnx")
    trace(tmp_path / "log", "-m", "msanet", *words)
    assert not others(tmp_path / "log")


def test_a_sweep_speaks_to_nobody(shards: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("ray", reason="sweeps need it (extra `sweep`)")
    file, home = tmp_path / "sweep.yaml", Path("/tmp") / f"ray-{os.getpid()}"
    run = dict(word.split("=") for word in (*_SMALL.split(), "evaluation.num_workers=0", "evaluation.panels=0"))
    tree = {
        "sweep": {"trials": 1, "searcher": "optuna"},
        "run": {key: yaml.safe_load(value) for key, value in run.items()},
    }
    file.write_text(yaml.safe_dump({**tree, "space": {"optimizer.lr": {"choice": [0.001]}}}))
    words = ("sweep", "--config", file, f"data.path={shards}", f"sweep.folder={tmp_path / 'sweep'}")
    try:
        trace(tmp_path / "log", "-m", "msanet", *words, HOME=str(home), RAY_TMPDIR=str(home))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert not others(tmp_path / "log")


def test_reports_of_use_are_off_unless_the_user_has_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    disable_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
