"""Files that are whole or absent, also after a loss of power."""

import os
from pathlib import Path

PARTIAL = ".partial"
"""Ends the name of what is not whole yet."""


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name beside `path`, and give it its name when it is on the disk.

    Characters that UTF-8 cannot hold (a lone surrogate out of a file name) become question marks.
    """
    temporary = path.with_name(path.name + PARTIAL)  # beside, since a rename is atomic only inside one file system
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content, or the renames in a folder, last."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
