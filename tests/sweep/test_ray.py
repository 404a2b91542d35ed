"""Real sweeps: with Ray of their own, a rank killed, the sweep stopped and continued; and on a cluster that is there."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from conftest import REPOSITORY
from msanet.cli.sweep import sweep_job
from msanet.config import load_config
from msanet.sweep.results import write_results
from msanet.sweep.trial_files import Outcome
from msanet.sweep.tuning import progress_callback, train_best, tune_sweep
from support.errors import error_codes, raises_user_error
from support.ranks import free_port
from support.ray_nodes import Node, ray_head

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason="ray[tune] is not installed: no sweeps (pip install '.[sweep]')"
)

RUN: dict[str, Any] = {
    "data": {"crop": [32, 40], "num_workers": 1},
    "model": {"name": "unet", "width": 0.05},
    "evaluation": {"num_workers": 0, "panels": 0, "worst": 0},
    "trainer": {
        "global_batch_size": 4,
        "log_every_steps": 1,
        "checkpoint_every_steps": 2,
        "val_every_epochs": 1,
        "epochs": 5,
    },
}


@pytest.fixture
def home() -> Iterator[Path]:
    """Where Ray leaves its token and the logs of its sessions; sockets want a short path."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def start(folder: Path, log: Path, home: Path, shards: Path, file: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["jobs/sweep.py", "--config", str(file), f"data.path={shards}", f"sweep.folder={folder}", *more]
    own = {**os.environ, "HOME": str(home), "RAY_TMPDIR": str(home)}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *words], cwd=REPOSITORY, env=own, stdout=output, stderr=subprocess.STDOUT
        )


def write(path: Path, **sections: object) -> Path:
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    return path


def ranks(folder: Path) -> list[psutil.Process]:
    """The processes of trainings in this sweep."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "msanet", "train"] and any(str(folder) in word for word in words):
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


def test_killed_stopped_resumed(home: Path, shards: Path, tmp_path: Path) -> None:
    """A rank is killed: its trial resumes. The sweep is stopped: no process is left, and the same command ends it."""
    folder, log, broken = tmp_path / "out", tmp_path / "log", tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    space = {"model.pretrained": {"grid": [None, str(broken)]}, "optimizer.lr": {"log_uniform": [1e-3, 1e-2]}}
    file = write(tmp_path / "s.yaml", sweep={"trials": 1, "ranks": 2, "max_failures": 1}, run=RUN, space=space)

    sweep = start(folder, log, home, shards, file)
    wait_until(lambda: list(folder.glob("trials/*/checkpoints/step-*")), sweep, log)
    assert ranks(folder)[-1].nice() == os.nice(0), "Ray would let everything else go before"
    ranks(folder)[-1].send_signal(signal.SIGKILL)
    (first,) = folder.glob("trials/*")
    wait_until(lambda: "resuming from" in (first / "ranks" / "00000.log").read_text(), sweep, log)
    wait_until(lambda: '"val/mean_iou"' in (first / "metrics.jsonl").read_text(), sweep, log)
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait(60) == 75, log.read_text()
    wait_until(lambda: not ranks(folder), None, log)
    assert "of 2 trials remain" in log.read_text()
    last = max(path.name for path in first.glob("checkpoints/step-*"))
    assert training_lines(first)[-1]["step"] == int(last.removeprefix("step-")), "it saves before it stops"

    sweep = start(folder, log, home, shards, file)
    assert sweep.wait(200) == 0, log.read_text()
    done, failed = results(folder)
    assert (done["status"], done["model.pretrained"], done["trial"]) == ("done", "null", first.name)
    assert float(done["mean_iou"]) > 0 and float(done["epochs"]) >= 5
    assert failed["status"] == "failed" and str(broken) in failed["error"] and not failed["mean_iou"]
    assert (first / "ranks" / "00000.log").read_text().count("resuming from") >= 2
    logs = (folder / "trials" / failed["trial"] / "ranks").glob("*.log")  # one of the ranks prints it
    assert sum(log.read_text().count("error: ") for log in logs) == 1, "bad input is not tried again"

    best = load_config(folder / "best.yaml", [f"run.dir={tmp_path}"])
    assert (best.optimizer.lr, best.trainer.epochs, best.data.path) == (float(done["optimizer.lr"]), 5, str(shards))
    assert done["trial"] in (folder / "sweep.html").read_text()
    again = start(folder, log, home, shards, file, "trainer.epochs=3")
    assert again.wait(60) == 2 and error_codes(log.read_text()) == ["MSA-SWEEP-013"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A head with room for four ranks, which wants its token; this process has it."""
    with ray_head(tmp_path_factory.mktemp("cluster") / "home", 4) as head, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        for name, value in head.environment().items():
            patch.setenv(name, value)
        yield head
        for name in [name for name in os.environ if name.startswith(("RAY_", "TUNE_"))]:
            patch.delenv(name)


def tune(address: str, folder: Path, shards: Path, file: Path, *more: str) -> list[dict[str, str]]:
    """As the command does, in this process, on the cluster; what it has found. Without the start of Python and of Ray."""
    words = ["--config", str(file), "--address", address, f"data.path={shards}", f"sweep.folder={folder}", *more]
    job = sweep_job(words)
    if job.train_best:
        assert train_best(job.plan, folder / "best.yaml", folder / "best", job.address) == 0
    else:
        tune_sweep(job.plan, job.address)
        assert write_results(job.plan)
    return results(folder)


@pytest.mark.slow
def test_a_cluster_is_joined_and_lives_on(
    cluster: Node, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of trials by Optuna, whose rates differ by a factor of a thousand, ASHA ends some; the best is then trained in full."""
    pytest.importorskip("optuna")
    folder = tmp_path / "out"
    space = {"optimizer.lr": {"log_uniform": [1e-6, 1e-2]}, "data.crop": {"choice": [[32, 40], [24, 32]]}}
    sweep = {"trials": 3, "searcher": "optuna", "scheduler": "asha", "max_concurrent_trials": 1, "seed": 1}
    file = write(tmp_path / "s.yaml", sweep=sweep, run=RUN, space=space, full={"trainer.steps": 1})
    rows = tune(cluster.address, folder, shards, file)
    assert {row["status"] for row in rows} == {"done", "stopped"} and len({row["optimizer.lr"] for row in rows}) == 3
    assert all(float(row["epochs"]) < 5 for row in rows if row["status"] == "stopped")
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)  # as a Ray job has it
    tune("auto", folder, shards, file, "--train-best")
    best = load_config(folder / "best" / "config.yaml")
    assert best.optimizer.lr == float(rows[0]["optimizer.lr"]) and (folder / "best" / "report.html").is_file()
    assert cluster.alive and not ranks(folder)


@pytest.mark.slow
def test_a_trial_without_enough_cores_is_refused(cluster: Node, shards: Path, tmp_path: Path) -> None:
    """Ray would wait forever."""
    sweep = {"trials": 1, "ranks": 2, "cpus": 3}
    file = write(tmp_path / "s.yaml", sweep=sweep, run=RUN, space={"optimizer.lr": {"choice": [1e-3]}})
    with raises_user_error("MSA-SWEEP-004", setting="sweep.ranks", mentions="4 CPU"):
        tune(cluster.address, tmp_path / "out", shards, file)
    assert not (tmp_path / "out").exists()


def test_a_trial_that_is_tried_again_is_not_over(shards: Path, tmp_path: Path) -> None:
    """Else a sweep that is stopped while it waits for room would count it as failed."""
    file = write(tmp_path / "s.yaml", run=RUN, space={"optimizer.lr": {"choice": [1e-3]}})
    words = ["--config", str(file), f"data.path={shards}", f"sweep.folder={tmp_path}"]
    plan = sweep_job(words).plan
    Outcome(status="failed", error="a rank was killed").save(plan.trials / "a")
    trial = SimpleNamespace(trial_id="a", last_result={"time_total_s": 3.0})
    progress_callback(plan).on_trial_complete(1, [], trial)
    assert Outcome.load(plan.trials / "a") == Outcome(status="failed", error="a rank was killed", seconds=3.0)
    progress_callback(plan).on_trial_recover(1, [], trial)
    assert Outcome.load(plan.trials / "a") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "code", "mentions"),
    [
        pytest.param({}, "MSA-SWEEP-002", "none was found", id="none"),
        pytest.param({"RAY_AUTH_TOKEN": "0" * 64}, "MSA-SWEEP-002", "a different token", id="another"),
        pytest.param({"HOME": "."}, "MSA-SWEEP-003", "", id="nobody there"),
    ],
)
def test_a_cluster_that_lets_nobody_in(
    environment: dict[str, str], code: str, mentions: str, cluster: Node, shards: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "s.yaml", run=RUN, space={"optimizer.lr": {"choice": [1e-3]}})
    address = f"127.0.0.1:{free_port()}" if code == "MSA-SWEEP-003" else cluster.address
    words = [
        "jobs/sweep.py",
        "--config",
        str(file),
        "--address",
        address,
        f"data.path={shards}",
        f"sweep.folder={tmp_path}",
    ]
    asked = {**cluster.environment(), "HOME": str(tmp_path), **environment}
    done = subprocess.run([sys.executable, *words], cwd=REPOSITORY, env=asked, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert error_codes(done.stderr) == [code] and mentions in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_pbt_resumes_from_a_better_trial(cluster: Node, shards: Path, tmp_path: Path) -> None:
    """There is room for one trial, so that both wait for each other after every epoch. The second draws a rate that is
    too low; it takes over the first's weights and metrics, and continues with nearly its rate, each step once."""
    run = {**RUN, "trainer": {**RUN["trainer"], "global_batch_size": 2, "epochs": 3, "checkpoint_every_steps": 13}}
    sweep = {"trials": 2, "searcher": "pbt", "cpus": 3, "perturb_every_epochs": 1, "seed": 4}
    file = write(tmp_path / "s.yaml", sweep=sweep, run=run, space={"optimizer.lr": {"log_uniform": [1e-9, 1e-2]}})
    rows = tune(cluster.address, tmp_path / "out", shards, file)
    assert [row["status"] for row in rows] == ["done", "done"]
    first, second = (
        training_lines(tmp_path / "out" / "trials" / trial) for trial in sorted(row["trial"] for row in rows)
    )
    assert [line["step"] for line in first] == [line["step"] for line in second] == list(range(1, 40))
    kept = next(index for index, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    assert kept in (13, 26), "the first's own lines up to one of its validations"
    rates = {second[step]["lr"] / first[step]["lr"] for step in range(kept, 39)}
    assert max(rates) - min(rates) < 1e-6 and (min(rates) == pytest.approx(0.8) or min(rates) == pytest.approx(1.2))


def training_lines(run: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl has of each step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.mark.slow
def test_the_median_rule_ends_a_trial(cluster: Node, shards: Path, tmp_path: Path) -> None:
    """The last of four, which learns nothing, after its first epoch."""
    run = {**RUN, "trainer": {**RUN["trainer"], "epochs": 3}}
    space = {"optimizer.lr": {"grid": [1e-2, 8e-3, 6e-3, 1e-9]}}
    sweep = {"trials": 1, "scheduler": "median", "max_concurrent_trials": 1}
    rows = tune(
        cluster.address, tmp_path / "out", shards, write(tmp_path / "s.yaml", sweep=sweep, run=run, space=space)
    )
    by_rate = {float(row["optimizer.lr"]): row for row in rows}
    assert by_rate[1e-9]["status"] == "stopped" and float(by_rate[1e-9]["epochs"]) < 3
    assert {by_rate[rate]["status"] for rate in (1e-2, 8e-3)} == {"done"}
