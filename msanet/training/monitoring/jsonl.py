"""Files that a run appends to, on a disk that may fill up: what is appended is there completely or not at all."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from msanet.logs import EVERY_RANK

logger = logging.getLogger(__name__)

_MIN_FREE_BYTES = 2**16
"""Before a file that did not fit is tried again, since otherwise every other line would fit."""
_LINES_ARE_MISSING = "what comes in the meantime is missing in it"


class JsonlLogger:
    """Continues if a file cannot be written; a warning says so once, and another line when it is written again."""

    def __init__(self) -> None:
        self._failing: set[Path] = set()

    def write(self, path: Path, write: Callable[[], object], consequence: str = _LINES_ARE_MISSING) -> None:
        """Call `write`, which writes `path`; its OSError becomes a warning that names the consequence."""
        try:
            if path in self._failing and shutil.disk_usage(path.parent).free < _MIN_FREE_BYTES:
                return
            write()
        except OSError as error:
            if path not in self._failing:
                reason = os.strerror(error.errno) if error.errno else error
                logger.warning(
                    f"'{path}' cannot be written ({reason}); {consequence}, the run continues; free some space on this disk",
                    extra=EVERY_RANK,
                )
            self._failing.add(path)
        else:
            if path in self._failing:
                logger.info(f"'{path}' is written again", extra=EVERY_RANK)
            self._failing.discard(path)

    def add_line(self, path: Path, line: dict[str, Any], consequence: str = _LINES_ARE_MISSING) -> None:
        """Append a line of JSON."""
        self.write(path, partial(append, path, f"{json.dumps(line)}\n".encode()), consequence)


def append(path: Path, data: bytes) -> None:
    """Append to a file, all of it or nothing. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:  # a disk that fills up takes a part
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


def cut_after(path: Path, step: int) -> None:
    """Keep the JSON lines up to this `step`, without one that is incomplete. Needs no space on the disk."""
    kept_bytes = 0
    with path.open("rb") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept_bytes += len(line)
    os.truncate(path, kept_bytes)
