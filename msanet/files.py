"""Files that are whole or absent, also after a loss of power."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EBADF, EINVAL, EISDIR, ENOSYS, ENOTDIR, ENOTSUP
from pathlib import Path

PARTIAL = ".partial"
"""Ends the name of what is not whole yet."""
_NO_FOLDER_SYNC = {EBADF, EINVAL, EISDIR, ENOSYS, ENOTSUP}
"""What network file systems answer that sync files but no folders; their renames last by themselves, or not at all."""


_JUNK = {
    ".ds_store",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    ".ipynb_checkpoints",
}


def is_junk(name: str) -> bool:
    """Whether operating systems and tools leave files or folders of this name in folders of others (`._x.png` of macOS)."""
    return name.startswith("._") or name.lower() in _JUNK


@contextmanager
def atomic_file(path: Path, temporary: Path | None = None, lasting: bool = True) -> Iterator[Path]:
    """A path to write to that becomes `path` if the block ends without an error; folders are made as needed.

    temporary: that path, where PATH.partial does not do. lasting: it is on the disk before it gets its name, which takes
    time that many small files need not. Raises OSError that names `path`, also for a full disk.
    """
    # Overlay `path`, since a rename is atomic only inside one file system.
    temporary = temporary or path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if lasting:
                sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if lasting:
            sync(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        number = ENOTDIR if isinstance(error, FileExistsError) else error.errno
        raise OSError(number, os.strerror(number), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a whole file. Characters that UTF-8 cannot hold (a lone surrogate out of a file name) become question marks."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def sync(path: Path) -> None:
    """Make a file's content, or the renames in a folder, last. Does nothing for a folder that cannot be synced (CIFS, FUSE)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_FOLDER_SYNC and path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
