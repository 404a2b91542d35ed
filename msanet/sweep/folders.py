"""Folders that a sweep needs: its own, and those in which Ray keeps sockets, logs and a token."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msanet.errors import UserError
from msanet.processes import short_temporary_folder

_RAY_NAME_BYTES = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")


def make_sweep_folder(folder: Path) -> None:
    """Make `sweep.folder`. Raises UserError where that is not possible, or it cannot be written."""
    reason = "it cannot be written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(
            "MSA-SWEEP-601",
            f"the folder '{folder}' cannot be used ({reason}), expected one that can be made and written; choose another "
            "sweep.folder",
            setting="sweep.folder",
        )


@contextmanager
def ray_folders() -> Iterator[None]:
    """Inside of the `with` block Ray finds a folder for its sockets with a short path, and a home folder that it may write.

    Raises UserError where the machine has no folder for temporary files with a path short enough.
    """
    if "RAY_TMPDIR" not in os.environ:
        os.environ["RAY_TMPDIR"] = str(short_temporary_folder(_RAY_NAME_BYTES))
    home = os.path.expanduser("~") if os.environ.get("HOME") != "" else ""
    if os.path.isabs(home) and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="msanet-home-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("HOME")
        os.environ["HOME"] = folder
        try:
            yield
        finally:
            os.environ.pop("HOME")
            if before is not None:
                os.environ["HOME"] = before
