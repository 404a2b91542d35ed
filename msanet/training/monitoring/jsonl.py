"""Files that a run adds to as it goes, on a disk that may fill up: what is added is there whole or not at all."""

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

_ROOM = 2**16
"""Bytes that must be free before a file that did not fit is tried again, lest every other line fits."""


_LACK = "what comes in the meantime is missing in it"


class JsonlLogger:
    """Goes on where a file cannot be written, and says so: once when that begins, and once when it is over."""

    def __init__(self) -> None:
        self._failing: set[Path] = set()

    def write(self, path: Path, how: Callable[[], object], follows: str = _LACK) -> None:
        """Call `how`, which writes `path`; its OSError becomes a warning that says what follows."""
        try:
            if path in self._failing and shutil.disk_usage(path.parent).free < _ROOM:
                return
            how()
        except OSError as error:
            if path not in self._failing:
                reason = os.strerror(error.errno) if error.errno else error
                logger.warning(
                    f"'{path}' cannot be written ({reason}); {follows}, the run continues; free some space on this disk",
                    extra=EVERY_RANK,
                )
            self._failing.add(path)
        else:
            if path in self._failing:
                logger.info(f"'{path}' is written again", extra=EVERY_RANK)
            self._failing.discard(path)

    def add_line(self, path: Path, line: dict[str, Any], follows: str = _LACK) -> None:
        """One more line of JSON."""
        self.write(path, partial(append, path, f"{json.dumps(line)}\n".encode()), follows)


def append(path: Path, data: bytes) -> None:
    """Add to a file, all of it or nothing. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:  # a disk that fills up takes a part
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


def cut_after(path: Path, step: int) -> None:
    """Leave the lines, JSON objects, whose `step` is at most this, without what a kill cut short. Needs no room on the disk."""
    whole = 0
    with path.open("rb") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
    os.truncate(path, whole)
