"""A trial's files and a sweep's results, without Ray."""

import csv
import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from msanet.config import load_config
from msanet.files import write_text
from msanet.sweep import process
from msanet.sweep.plan import SweepPlan, plan_sweep
from msanet.sweep.process import RankExit, RankPlacement, RankProcess, acquire_lock, last_error_line
from msanet.sweep.ranks import rank_environments
from msanet.sweep.results import read_trials, table, write_results
from msanet.sweep.settings import Axis, SweepConfig, SweepFile
from msanet.sweep.trial import clone_checkpoint, publish_checkpoint, record_exits
from msanet.sweep.trial_files import CheckpointReference, Outcome, Params
from msanet.sweep.tuning import within_ranges
from msanet.training.checkpoint.io import latest_valid, validate_checkpoint, write_checkpoint
from support.errors import raises_user_error
from support.small_runs import toy_checkpoint


def small_plan(shards: Path, folder: Path, **sweep: object) -> SweepPlan:
    space = {
        "optimizer.lr": Axis(log_uniform=(1e-4, 1e-2)),
        "model.name": Axis(choice=("unet", "msanet")),
        "model.attention": Axis(choice=("full", "none"), when={"model.name": "msanet"}),
    }
    settings = SweepConfig.model_validate({"folder": folder, "trials": 4, **sweep})
    file = SweepFile(sweep=settings, run={"model.width": 0.05}, space=space, full={"trainer.epochs": 7})
    return plan_sweep(file, "<small>", [f"data.path={shards}"])


def write_trial(
    plan: SweepPlan, name: str, params: dict[str, str], metrics: list[float], outcome: Outcome | None
) -> None:
    run = plan.trials / name
    Params(params=params).save(run)
    lines = [{"step": 5 * n, "epoch": float(n), "val/mean_iou": value} for n, value in enumerate(metrics, 1)]
    write_text(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    if outcome:
        write_text(run / "outcome.json", outcome.model_dump_json())


def test_results(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = small_plan(shards, tmp_path)
    unet, full = (
        {"optimizer.lr": "0.001", "model.name": '"unet"'},
        {"model.name": '"msanet"', "model.attention": '"full"'},
    )
    write_trial(plan, "a_0", unet, [0.2, 0.4, 0.3], Outcome(status="done", seconds=12.34))
    write_trial(plan, "a_1", {"optimizer.lr": "0.005", **full}, [0.1], Outcome(status="stopped"))
    write_trial(plan, "a_2", unet, [], Outcome(status="failed", error="s3://me:secret@x <b> is down"))
    write_trial(plan, "a_3", unet, [0.35], None)
    assert not write_results(plan), "one is unfinished"
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["status"]) for row in rows] == [
        ("a_0", "done"), ("a_3", "unfinished"), ("a_1", "stopped"), ("a_2", "failed"),
    ]  # fmt: skip
    assert [row["mean_iou"] for row in rows] == ["0.400000", "0.350000", "0.100000", ""]
    assert (rows[0]["model.name"], rows[0]["model.attention"], rows[2]["model.attention"]) == ("unet", "", "full")
    assert (rows[0]["epochs"], rows[0]["seconds"]) == ("3", "12.3")
    best = load_config(tmp_path / "best.yaml", [f"run.dir={tmp_path}"])
    assert (best.model.name, best.optimizer.lr, best.trainer.epochs) == ("unet", 0.001, 7)
    page = (tmp_path / "sweep.html").read_text()
    assert page.count('class="trial"') == 3 + 3 and "&lt;b&gt; is down" in page and "&lt;small&gt;" in page
    output = capsys.readouterr().out
    assert "1 of 4 trials remain" in output and "40.00%" in output and "secret" not in output + page
    assert table(plan, read_trials(plan)) in output


def test_results_before_any_validation(shards: Path, tmp_path: Path) -> None:
    assert not write_results(small_plan(shards, tmp_path))
    assert "No validation yet" in (tmp_path / "sweep.html").read_text() and not (tmp_path / "best.yaml").exists()


def test_a_published_checkpoint_is_cloned(tmp_path: Path) -> None:
    """As it was published, though its run has removed it since; own checkpoints and later metrics are gone."""
    donor, run = tmp_path / "donor", tmp_path / "run"
    for step in (5, 10, 15):
        write_checkpoint(donor / "checkpoints", toy_checkpoint(step), keep=1)
        assert publish_checkpoint(donor) == step
    lines = [json.dumps({"step": step}) + "\n" for step in (5, 10, 15)]
    write_text(donor / "metrics.jsonl", "".join(lines))
    write_checkpoint(run / "checkpoints", toy_checkpoint(12), keep=1)
    clone_checkpoint(run, CheckpointReference(run=donor, step=10))
    found = latest_valid(run / "checkpoints")
    assert found and found.name == "step-00000010" and validate_checkpoint(found) is None
    assert (run / "metrics.jsonl").read_text() == lines[0] + lines[1] and (run / "reported_step").read_text() == "10\n"
    assert (found / "state.json").stat().st_ino == (donor / "published" / found.name / "state.json").stat().st_ino


def test_nothing_to_clone(tmp_path: Path) -> None:
    assert publish_checkpoint(tmp_path) is None
    with pytest.raises(RuntimeError, match="no published checkpoint"):
        clone_checkpoint(tmp_path / "run", CheckpointReference(run=tmp_path, step=1))


def test_how_trials_end(tmp_path: Path) -> None:
    record_exits(tmp_path, [RankExit(0, ""), RankExit(0, "")])
    assert Outcome.load(tmp_path) == Outcome(status="done")
    record_exits(tmp_path, [RankExit(1, "lost"), RankExit(2, "bad input")])
    assert Outcome.load(tmp_path) == Outcome(status="failed", error="bad input")
    with pytest.raises(RuntimeError, match=r"\[-9, 1\]"):
        record_exits(tmp_path, [RankExit(-9, ""), RankExit(1, "rank 0 is gone")])
    assert Outcome.load(tmp_path) == Outcome(status="failed", error="rank 0 is gone")


def test_the_last_error_of_this_attempt(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: old\n")
    start = log.stat().st_size
    with log.open("a") as file:
        file.write("train: 1%\rtrain: 2%\n12:03:44 error: new [MSA-DATA-001]\nmore\n")
    assert last_error_line(log, start) == "new [MSA-DATA-001]"
    assert last_error_line(log, log.stat().st_size) == ""


def test_a_rank_locks_its_folder(tmp_path: Path) -> None:
    """The next attempt waits for it; its exit code and its last error come back."""
    script = tmp_path / "rank.py"
    script.write_text("import time; time.sleep(2); print('error: enough'); raise SystemExit(3)")
    import threading

    exits: list[RankExit] = []

    def run() -> None:
        exits.append(RankProcess().run([str(script)], {}, tmp_path / "log", tmp_path / "lock", None))

    thread = threading.Thread(target=run)
    thread.start()
    while not (tmp_path / "log").is_file():
        time.sleep(0.01)
    acquire_lock(tmp_path / "lock").close()
    thread.join(1)
    assert exits == [RankExit(3, "enough")]


def test_ranks_start_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(process, "flock", no_locks)
    script = tmp_path / "rank.py"
    script.write_text("")
    assert RankProcess().run([str(script)], {}, tmp_path / "log", tmp_path / "lock", None) == RankExit(0, "")


def test_a_rank_stops_when_its_actor_is_killed(tmp_path: Path) -> None:
    script, stopped = tmp_path / "rank.py", tmp_path / "stopped"
    script.write_text(
        "import pathlib, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(__file__).with_name('stopped').touch() or exit())\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    actor = (
        "import sys; from pathlib import Path; from msanet.sweep.process import RankProcess\n"
        f"RankProcess().run([{str(script)!r}], {{}}, Path({str(tmp_path / 'log')!r}), None, None)"
    )
    process = subprocess.Popen([sys.executable, "-c", actor])
    while not (tmp_path / "log").is_file() or "ready" not in (tmp_path / "log").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while not stopped.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stopped.exists()


def test_what_a_launcher_would_set(shards: Path, tmp_path: Path) -> None:
    placements = [
        RankPlacement("n0", "10.0.0.1", ("3",), 16, 1000),
        RankPlacement("n1", "10.0.0.2", ("0",), 16, 2000),
        RankPlacement("n0", "10.0.0.1", ("1",), 16, 3000),
    ]
    plan = small_plan(shards, tmp_path, ranks=1, gpus=1, cpus=4)
    found = rank_environments(placements, plan)
    assert [(e["RANK"], e["LOCAL_RANK"], e["CUDA_VISIBLE_DEVICES"]) for e in found] == [
        ("0", "0", "3,1"), ("1", "0", "0"), ("2", "1", "3,1"),
    ]  # fmt: skip
    assert {(e["MASTER_ADDR"], e["MASTER_PORT"], e["WORLD_SIZE"]) for e in found} == {("10.0.0.1", "1000", "3")}
    assert {e["MASTER_ADDR"] for e in rank_environments(placements[::2], plan)} == {"127.0.0.1"}


def test_pbt_stays_within_its_ranges() -> None:
    space = {"a": Axis(uniform=(0.1, 0.9)), "b": Axis(choice=(1, 2))}
    assert within_ranges({"a": 1.08, "b": "2"}, space) == {"a": 0.9, "b": "2"}
    assert within_ranges({"a": 0.08, "b": "2"}, space)["a"] == 0.1


def test_a_trial_gets_its_settings_and_nothing_else(shards: Path, tmp_path: Path) -> None:
    plan = small_plan(shards, tmp_path)
    command = plan.command({"model.name": '"msanet"', "optimizer.lr": "1e-05"}, tmp_path / "a b")
    config = load_config(None, command[3:])
    assert command[:3] == ["-m", "msanet", "train"] and (config.optimizer.lr, config.run.dir) == (
        1e-5,
        tmp_path / "a b",
    )
    with raises_user_error("MSA-SWEEP-006", setting="run.dir"):
        plan_sweep(plan.file, "x", [f"data.path={shards}", "run.dir=elsewhere"])


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "outcome.json", '{"format_version": 2, "status": "done"}')
    with raises_user_error("MSA-SWEEP-014", setting="sweep.folder"):
        Outcome.load(tmp_path)
