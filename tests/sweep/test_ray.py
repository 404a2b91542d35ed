"""Real sweeps on this machine: trials of two ranks, a rank killed, a sweep stopped and continued."""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import REPOSITORY

from msanet.config import load_config

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason="ray[tune] is not installed: no sweeps (pip install '.[sweep]')"
)

RUN = {
    "data": {"crop": [32, 40], "workers": 1},
    "model": {"name": "unet", "width": 0.05},
    "evaluation": {"workers": 0, "panels": 0, "worst": 0},
    "trainer": {"global_batch": 4, "log_every": 1, "checkpoint_every": 2, "evaluate_every": 1, "epochs": 5},
}


def start(folder: Path, log: Path, shards: Path, file: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["jobs/sweep.py", "--config", str(file), f"data.path={shards}", f"sweep.folder={folder}", *more]
    with log.open("wb") as output:
        return subprocess.Popen([sys.executable, *words], cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)


def write(path: Path, **sections: object) -> Path:
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    return path


def ranks(folder: Path) -> list[psutil.Process]:
    """The processes of trainings in this sweep."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any("launcher/train.py" in word for word in words) and any(str(folder) in word for word in words):
            found.append(process)
    return found


def wait_until(done: Callable[[], object], sweep: subprocess.Popen[bytes] | None, log: Path) -> None:
    deadline = time.monotonic() + 200
    while not done():
        assert time.monotonic() < deadline, log.read_text()
        assert sweep is None or sweep.poll() is None, log.read_text()
        time.sleep(0.1)


def results(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_killed_stopped_continued(shards: Path, tmp_path: Path) -> None:
    """A rank is killed: its trial goes on. The sweep is stopped: no process is left, and the same command ends it."""
    folder, log, broken = tmp_path / "out", tmp_path / "log", tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    space = {"model.pretrained": {"grid": [None, str(broken)]}, "optimizer.lr": {"log_uniform": [1e-3, 1e-2]}}
    file = write(tmp_path / "s.yaml", sweep={"trials": 1, "ranks": 2, "max_failures": 1}, run=RUN, space=space)

    sweep = start(folder, log, shards, file)
    wait_until(lambda: list(folder.glob("trials/*/checkpoints/step-*")), sweep, log)
    ranks(folder)[-1].send_signal(signal.SIGKILL)
    (first,) = folder.glob("trials/*")
    wait_until(lambda: "going on from" in (first / "ranks" / "00000.log").read_text(), sweep, log)
    wait_until(lambda: '"val/mean_iou"' in (first / "metrics.jsonl").read_text(), sweep, log)
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait(60) == 75, log.read_text()
    wait_until(lambda: not ranks(folder), None, log)
    assert "of 2 trials remain; the same command goes on" in log.read_text()
    assert "the run saves after this step and stops" in (first / "ranks" / "00000.log").read_text()

    sweep = start(folder, log, shards, file)
    assert sweep.wait(200) == 0, log.read_text()
    done, failed = results(folder)
    assert (done["status"], done["model.pretrained"], done["trial"]) == ("done", "null", first.name)
    assert float(done["mean_iou"]) > 0 and float(done["epochs"]) >= 5
    assert failed["status"] == "failed" and str(broken) in failed["error"] and not failed["mean_iou"]
    assert (first / "ranks" / "00000.log").read_text().count("going on from") >= 2
    command = (folder / "trials" / failed["trial"] / "ranks" / "00000.log").read_text()
    assert command.count("error: ") == 1, "bad input is not tried again"

    best = load_config(folder / "best.yaml", [f"run.dir={tmp_path}"])
    assert (best.optimizer.lr, best.trainer.epochs, best.data.path) == (float(done["optimizer.lr"]), 5, str(shards))
    assert done["trial"] in (folder / "sweep.html").read_text()
    again = start(folder, log, shards, file, "trainer.epochs=3")
    assert again.wait(60) == 2 and "other settings" in log.read_text()


def test_what_has_no_room_is_refused(shards: Path, tmp_path: Path) -> None:
    """Ray would wait for ever."""
    space, log = {"optimizer.lr": {"choice": [1e-3]}}, tmp_path / "log"
    file = write(
        tmp_path / "s.yaml", sweep={"trials": 1, "ranks": 4, "cpus": os.cpu_count() or 1}, run=RUN, space=space
    )
    assert start(tmp_path / "out", log, shards, file).wait(100) == 2
    assert "can never be placed" in log.read_text() and not (tmp_path / "out").exists()


def test_optuna_with_a_rule_that_ends_trials(shards: Path, tmp_path: Path) -> None:
    """Of trials that differ by a factor of a thousand in their rate, ASHA ends some; the best is then trained in full."""
    pytest.importorskip("optuna")
    folder, log = tmp_path / "out", tmp_path / "log"
    space = {"optimizer.lr": {"log_uniform": [1e-6, 1e-2]}, "data.crop": {"choice": [[32, 40], [24, 32]]}}
    sweep = {"trials": 3, "searcher": "optuna", "scheduler": "asha", "concurrent": 1, "seed": 1}
    file = write(tmp_path / "s.yaml", sweep=sweep, run=RUN, space=space, full={"trainer.steps": 1})
    assert start(folder, log, shards, file).wait(200) == 0, log.read_text()
    rows = results(folder)
    assert {row["status"] for row in rows} == {"done", "stopped"} and len({row["optimizer.lr"] for row in rows}) == 3
    assert all(float(row["epochs"]) < 5 for row in rows if row["status"] == "stopped")
    assert start(folder, log, shards, file, "--train-best").wait(100) == 0, log.read_text()
    best = load_config(folder / "best" / "config.yaml")
    assert best.optimizer.lr == float(rows[0]["optimizer.lr"]) and (folder / "best" / "report.html").is_file()
