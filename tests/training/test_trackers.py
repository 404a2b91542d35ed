"""Trackers with their real libraries, where these are installed: what they keep offline is read back."""

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from msanet.config import parse_config
from msanet.training.monitoring.trackers import TRACKERS, MlflowTracker


def _two_starts(name: str, folder: Path) -> None:
    """Steps 1 and 2, and after a resume step 3; NaN is not sent."""
    config = parse_config({"run": {"dir": str(folder)}}, "test")
    trainer: Any = SimpleNamespace(config=config)
    for steps in ((1, 2), (3,)):
        tracker = TRACKERS[name]()
        tracker.on_train_start(trainer)
        for step in steps:
            tracker.on_log(step, {"loss": 1 / step, "grad": float("nan")})
        tracker.on_validation_end(steps[-1], {"val/mean_iou": 0.1 * steps[-1]})
        tracker.on_train_end(steps[-1])


def test_passwords_are_not_sent(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Tracker(MlflowTracker):
        module = "json"

        def _begin(self, layout: Any, known: str | None, config: dict[str, Any]) -> str:
            seen.append(config)
            return "1"

    config = parse_config({"run": {"dir": str(tmp_path)}, "data": {"path": "https://user:secret@host/shards"}}, "test")
    Tracker().on_train_start(SimpleNamespace(config=config))
    assert "host/shards" in str(seen) and "secret" not in str(seen)


def test_mlflow_continues_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _two_starts("mlflow", tmp_path)
    (run,) = mlflow.search_runs(experiment_names=["msanet"], output_format="list")
    assert run.info.run_id == json.loads((tmp_path / "trackers.json").read_text())["ids"]["mlflow"]
    assert run.data.params["optimizer.name"] == "adam" and "train/grad" not in run.data.metrics
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert run.data.metrics["val/mean_iou"] == pytest.approx(0.3)


def test_wandb_continues_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    Record: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    _two_starts("wandb", tmp_path)
    files, seen, ids = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")), [], set()
    assert len(files) == 2
    for data in (data for file in files for data in _records(file.read_bytes())):
        record = Record()
        record.ParseFromString(data)
        ids |= {record.run.run_id} if record.WhichOneof("record_type") == "run" else set()
        items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        seen += [(int(items["_step"]), float(items["train/loss"]))] if "train/loss" in items else []
    assert seen == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))] and len(ids) == 1


def _records(data: bytes) -> Iterator[bytes]:
    """Of LevelDB's log format, after wandb's header of 7 bytes: blocks of 32 KiB, records of crc, length, type and content."""
    position, record = 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""
