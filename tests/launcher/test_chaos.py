"""A few kills of benchmarks/chaos.py, and its checks, which must find what is lost."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY

CHECKS = runpy.run_path(str(REPOSITORY / "benchmarks" / "chaos_checks.py"))  # not by sys.path: it has a models.py too
BATCH, IMAGES = CHECKS["BATCH"], CHECKS["IMAGES"]
check_metrics, check_samples = CHECKS["check_metrics"], CHECKS["check_samples"]
check_skipped_samples = CHECKS["check_skipped_samples"]
SCENARIOS = runpy.run_path(str(REPOSITORY / "benchmarks" / "chaos_scenarios.py"))


def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/chaos.py", "--kills", "2", "--seed", "4", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(figures.read_text())
    assert result["faults"] == [] and [run["kills"] for run in result["results"]] == [1, 1]
    assert all(lost == "" for run in result["results"] for lost in run["checks"].values())


def test_twenty_kills_meet_every_kind() -> None:
    draw = SCENARIOS["draw"]
    scenarios = [*draw("0 same", 10, (2,), (1,)), *draw("0 changing", 10, (1, 2, 3), (0, 1, 2, 3))]
    for field, kinds in (
        ("kind", "ENDINGS"),
        ("launcher", "LAUNCHERS"),
        ("disturbance", "DISTURBANCES"),
        ("damage", "DAMAGES"),
    ):
        assert {getattr(scenario, field) for scenario in scenarios} >= set(SCENARIOS[kinds]), kinds
    without = draw("0 same", 40, (2,), (1,), [SCENARIOS["SUSPEND"]])
    assert not any(scenario.disturbance == SCENARIOS["SUSPEND"] for scenario in without)


STEPS = 9  # two epochs


def write_run(folder: Path) -> Path:
    """What a run of two ranks records; samples in their own order, and sample 2 of each epoch skipped."""
    folder.mkdir()
    lines: dict[str, list[object]] = {"samples-00000": [], "samples-00001": [], "bad-samples-00000": [], "metrics": []}
    for step in range(1, STEPS + 1):
        epochs, samples = zip(
            *(divmod(place, IMAGES) for place in range((step - 1) * BATCH, step * BATCH)), strict=True
        )
        for rank, half in enumerate((slice(0, 3), slice(3, 6))):
            lines[f"samples-{rank:05d}"].append({"step": step, "epochs": epochs[half], "samples": samples[half]})
        if 2 in samples:
            lines["bad-samples-00000"].append(
                {"step": step, "fault": "'train-000000.tar' is damaged: train_002 at byte 7"}
            )
        lines["metrics"].append({"step": step, "loss": 1 / step})
    lines["metrics"].append({"step": STEPS, "val/mean_iou": 0.5})
    for name, content in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    return folder


def faults(run: Path, reference: Path) -> set[str]:
    checks = check_samples(run, reference, STEPS) | check_metrics(run, reference, bitwise=True)
    checks["skipped"] = check_skipped_samples(run, reference, {2: "train_002"})
    return {what for what, lost in checks.items() if lost}


@pytest.mark.parametrize(
    ("file", "line", "again", "lost"),
    [
        ("samples-00001", 4, False, {"each (epoch, sample) at least once", "each step took its samples"}),
        ("samples-00001", 4, True, {"each (epoch, sample) at most once", "each step took its samples"}),
        ("bad-samples-00000", 1, False, {"skipped"}),
        ("bad-samples-00000", 0, True, {"skipped"}),
        ("metrics", 3, False, {"each step logged once", "losses bit-identical"}),
        ("metrics", STEPS, True, {"each validation logged once"}),
    ],
)
def test_the_checks_find_what_is_lost(tmp_path: Path, file: str, line: int, again: bool, lost: set[str]) -> None:
    """A line of a record is missing, or there twice."""
    reference, run = write_run(tmp_path / "reference"), tmp_path / "run"
    shutil.copytree(reference, run)
    assert faults(run, reference) == set()
    path = run / f"{file}.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[line]] if again else lines[:line] + lines[line + 1 :]))
    assert faults(run, reference) == lost
