"""Scalars for TensorBoard, written as they come."""

import os
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from msanet.training.monitoring.jsonl import append


class TensorBoardLogger:
    """An event file in `folder`; it hides what older files there hold of `first_step` and later. See docs/decisions/0007."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self._path = folder / f"events.out.tfevents.{time.time():017.6f}.{os.getpid()}"
        self._first_step, self._has_begun = first_step, False

    def add(self, step: int, values: dict[str, float]) -> None:
        """Values by tag. Raises OSError, and the file is as before."""
        # Slow to import, and needed on one rank only.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        events: list[dict[str, Any]] = [{"step": step, "summary": summary}]
        if not self._has_begun:
            start = {"step": self._first_step, "session_log": SessionLog(status=SessionLog.START)}
            events = [{"file_version": "brain.Event:2"}, start, *events]
        records = BytesIO()
        for event in events:
            RecordWriter(records).write(Event(wall_time=time.time(), **event).SerializeToString())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append(self._path, records.getvalue())
        self._has_begun = True
