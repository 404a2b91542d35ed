"""A few kills of benchmarks/chaos.py, and the proof of it, which must find what is lost."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY

PROOF = runpy.run_path(str(REPOSITORY / "benchmarks" / "chaos_proof.py"))  # not by sys.path: it has a models.py too
BATCH, IMAGES = PROOF["BATCH"], PROOF["IMAGES"]
prove_log, prove_masks, prove_stream = PROOF["prove_log"], PROOF["prove_masks"], PROOF["prove_stream"]


def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/chaos.py", "--kills", "2", "--seed", "4", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(figures.read_text())
    assert result["faults"] == [] and [run["kills"] for run in result["results"]] == [1, 1]
    assert all(lost == "" for run in result["results"] for lost in run["checks"].values())


STEPS = 9  # two epochs


def write_run(folder: Path) -> Path:
    """What a run of two ranks records; samples in their own order, and sample 2 of each epoch masked."""
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


def faults(run: Path, twin: Path) -> set[str]:
    checks = prove_stream(run, twin, STEPS) | prove_log(run, twin, bitwise=True)
    checks["masked"] = prove_masks(run, twin, {2: "train_002"})
    return {what for what, lost in checks.items() if lost}


@pytest.mark.parametrize(
    ("file", "line", "again", "lost"),
    [
        ("samples-00001", 4, False, {"each (epoch, sample) at least once", "each step took its samples"}),
        ("samples-00001", 4, True, {"each (epoch, sample) at most once", "each step took its samples"}),
        ("bad-samples-00000", 1, False, {"masked"}),
        ("bad-samples-00000", 0, True, {"masked"}),
        ("metrics", 3, False, {"each step logged once", "losses bit-identical"}),
        ("metrics", STEPS, True, {"each validation logged once"}),
    ],
)
def test_the_proof_finds_what_is_lost(tmp_path: Path, file: str, line: int, again: bool, lost: set[str]) -> None:
    """A line of a record is missing, or there twice."""
    twin, run = write_run(tmp_path / "twin"), tmp_path / "run"
    shutil.copytree(twin, run)
    assert faults(run, twin) == set()
    path = run / f"{file}.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[line]] if again else lines[:line] + lines[line + 1 :]))
    assert faults(run, twin) == lost
