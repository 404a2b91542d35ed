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
        from tensorboard.compat.proto.summary_pb2 import Summary  # slow to import, and needed on one rank only

        events = [] if self._has_begun else [{"file_version": "brain.Event:2"}, self._start()]
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append(self._path, b"".join(map(_record, [*events, {"step": step, "summary": summary}])))
        self._has_begun = True

    def _start(self) -> dict[str, Any]:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        return {"step": self._first_step, "session_log": SessionLog(status=SessionLog.START)}


def _record(fields: dict[str, Any]) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = BytesIO()
    RecordWriter(buffer).write(Event(wall_time=time.time(), **fields).SerializeToString())
    return buffer.getvalue()
