"""Folders that a sweep needs: its own, and those in which Ray keeps sockets, logs and a token."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    with ExitStack() as stack:
        changes = {}
        folder = str(short_temporary_folder(_RAY_NAME_BYTES)) if "RAY_TMPDIR" not in os.environ else ""
        if folder not in ("", tempfile.gettempdir()):
            changes["RAY_TMPDIR"] = folder
        home = os.path.expanduser("~") if os.environ.get("HOME") != "" else ""
        if not (os.path.isabs(home) and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK)):
            own = tempfile.TemporaryDirectory(prefix="msanet-home-", ignore_cleanup_errors=True)
            changes["HOME"] = stack.enter_context(own)
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                os.environ.update({name: value} if value is not None else {})
