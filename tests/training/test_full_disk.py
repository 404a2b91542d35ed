"""A disk that is full ends no run, cuts no line in two, and is said once; what a kill cut short is mended."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msanet.config import parse_config
from msanet.data.manifest import load_manifest
from msanet.data.pipeline import Batch
from msanet.evaluation.per_image_counts import collect_counts, image_counts
from msanet.evaluation.result import EvaluationResult
from msanet.training.monitoring.jsonl import JsonlLogger, append, cut_after
from msanet.training.run_folder import RunFolder
from support.errors import error_codes
from support.ranks import start_ranks


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all room but `leave` bytes of it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096):
                pass
        except OSError:
            pass
    os.truncate(ballast, ballast.stat().st_size - leave)
    return ballast


def objects(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def folder(shards: Path, disk: Path) -> RunFolder:
    settings = {"data": {"path": str(shards)}, "run": {"dir": str(disk / "run"), "record_samples": True}}
    return RunFolder(parse_config(settings, "test"), load_manifest(shards))


def batch(number: int) -> Batch:
    """One that holds nothing but the numbers of 200 samples."""
    values = torch.arange(200) + number
    return Batch(torch.zeros(0), torch.zeros(0), torch.zeros(0), values * 0, values, ("shard 7 is torn",))


def evaluation(shards: Path) -> EvaluationResult:
    manifest = load_manifest(shards)
    matrix = np.eye(manifest.num_classes, manifest.num_classes + 1, dtype=np.int64) * 9
    images = [image_counts(0, "val_000", matrix)]
    records = collect_counts(manifest.name, manifest.digest(), "val", manifest.classes, images)
    return EvaluationResult(records, np.ones(1, np.int64), 1)


def test_what_does_not_fit_is_missing_whole(small_disk: Path) -> None:
    path = small_disk / "lines"
    append(path, b"first\n")
    fill(small_disk, leave=4096)
    with pytest.raises(OSError, match="No space left"):
        append(path, b"x" * 12_000)  # a part of it would fit
    assert path.read_bytes() == b"first\n"


def test_a_file_that_did_not_fit_is_tried_again_once_there_is_room(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not before, or every shorter line would fit into the end of the last block."""
    path, writer = small_disk / "lines", JsonlLogger()
    append(path, b"first\n")
    ballast = fill(small_disk)
    for line in (b"x" * 5000, b"short\n", b"short\n"):
        writer.write(path, partial(append, path, line), "lines are missing")
    assert path.read_bytes() == b"first\n"
    assert capsys.readouterr().err.count("(No space left on device); lines are missing, the run continues") == 1
    ballast.unlink()
    for _ in range(2):
        writer.write(path, partial(append, path, b"last\n"))
    assert path.read_bytes() == b"first\nlast\nlast\n"
    assert capsys.readouterr().err.endswith(f" '{path}' is written again\n")


def test_a_run_continues_while_its_disk_is_full(
    shards: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with folder(shards, small_disk) as run:
        run.begin(0)
        run.log({"step": 1}, {"loss": 2.0})
        run.log_evaluation({"step": 1}, evaluation(shards))
        before = (run.path / "report.html").read_bytes()
        ballast = fill(small_disk)
        for step in range(2, 300):
            run.log({"step": step}, {"loss": 1.0})
            run.record(step, [batch(step)])
        run.log_evaluation({"step": 299}, evaluation(shards))
        said = [line for line in capsys.readouterr().err.splitlines() if "bad sample skipped" not in line]
        assert all(" warning: " in line and "No space left on device" in line for line in said), said
        files = [Path(line.split("'")[1]).name for line in said]
        assert len(files) == len({*files}), said
        assert {"tensorboard", "metrics.jsonl", "samples-00000.jsonl"} <= {*files}
        assert {"bad-samples-00000.jsonl", "evaluation-val.json", "report.html"} <= {*files}, "each once"
        assert any(
            "samples-00000" in line and "the proof that each sample is taken once has a gap" in line for line in said
        )
        ballast.unlink()
        run.log({"step": 300}, {"loss": 0.5})
        run.record(300, [batch(300)])
        run.log_evaluation({"step": 300}, evaluation(shards))
        again = capsys.readouterr().err
        assert all(again.count(f"/{name}' is written again") == 1 for name in files), again
    assert (run.path / "report.html").read_bytes() != before and (run.path / "evaluation-val.json").is_file()
    steps = [line["step"] for line in objects(run.path / "metrics.jsonl")]
    assert steps[0] == 1 and steps[-1] == 300 and len(steps) < 300
    assert objects(run.path / "samples-00000.jsonl")[-1]["step"] == 300
    shown = EventAccumulator(str(run.path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in shown.Scalars("train/loss")]
    assert losses[0] == (1, 2.0) and losses[-1] == (300, 0.5)
    assert not list(run.path.glob("*.partial"))


def test_a_run_resumes_on_a_full_disk_and_mends_what_a_kill_left(
    shards: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with folder(shards, small_disk) as run:
        run.begin(0)
        for step in (1, 2, 3, 4):
            run.log({"step": step}, {"loss": 1.0 * step})
            run.record(step, [batch(step)])
    fill(small_disk)
    for name in ("metrics.jsonl", "samples-00000.jsonl"):
        path = run.path / name
        os.truncate(path, path.stat().st_size - 5)
    with folder(shards, small_disk) as run:
        run.begin(3)
    assert "config.yaml' cannot be written (No space left on device)" in capsys.readouterr().err
    assert [line["step"] for line in objects(run.path / "metrics.jsonl")] == [1, 2, 3]
    assert [line["step"] for line in objects(run.path / "samples-00000.jsonl")] == [1, 2, 3]


def test_what_is_done_again_is_hidden_on_the_board(shards: Path, tmp_path: Path) -> None:
    for first, value in ((0, 1.0), (2, 5.0)):
        with folder(shards, tmp_path) as run:
            run.begin(first)
            for step in (first + 1, first + 2, first + 3):
                run.log({"step": step}, {"loss": value})
    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 5.0),
        (4, 5.0),
        (5, 5.0),
    ]


@pytest.mark.parametrize(
    "end", [b"", b'{"step": 3', b'{"step": 3}', b"\x00" * 9, b'{"loss": 1}\n', b"[]\n", b"7\n", b"\xff\n"]
)
def test_a_torn_end_is_cut_off(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1}\n{"step": 2}\n'
    path.write_bytes(whole + end)
    cut_after(path, 5)
    assert path.read_bytes() == whole
    cut_after(path, 1)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_training_without_room_for_any_checkpoint_is_an_error(shards: Path, small_disk: Path) -> None:
    """The real command, on a disk with room for its settings and no more."""
    fill(small_disk, leave=12 * 1024)
    words = ["launcher/train.py", "data.crop=[32,40]", "data.num_workers=0", "model.width=0.05", "model.name=unet"]
    words += [
        "trainer.global_batch_size=4",
        "trainer.log_every_steps=1",
        "trainer.checkpoint_every_steps=2",
        "evaluation.num_workers=0",
    ]
    words += [f"data.path={shards}", f"run.dir={small_disk / 'run'}", "trainer.steps=4", "run.record_samples=true"]
    (process,) = start_ranks(1, words)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 2 and "Traceback" not in output, output
    assert error_codes(output) == ["MSA-CKPT-401"] and "there is none" in output
    for name in ("metrics.jsonl", "tensorboard", "evaluation-val.json", "report.html"):
        assert output.count(f"{name}' cannot be written (No space left on device)") == 1, output
    assert "the checkpoint of step 2 could not be written" in output and "of step 4 could not" in output
    assert [line["step"] for line in objects(small_disk / "run" / "samples-00000.jsonl")] in ([], [1, 2, 3, 4])
