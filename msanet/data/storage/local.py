"""Shards in a folder of this machine, or one that is mounted."""

import os
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

from msanet.data.storage.base import ByteRange, require_size
from msanet.errors import UserError

_OPEN_FILES = 64


class LocalStorage:
    """A folder of this machine, or one that is mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = str(folder)
        self._open: OrderedDict[str, int] = OrderedDict()  # file -> descriptor
        weakref.finalize(self, _close, self._open)
        self._lock = threading.Lock()

    def read_file(self, file: str, limit: int) -> bytes:
        """See Storage."""
        path = self.folder / file
        if not path.is_file():
            raise UserError("MSA-DATA-003", f"'{path}' is missing; copy it too, or pack the dataset again")
        require_size(path, path.stat().st_size, limit)
        return path.read_bytes()

    def read(self, byte_range: ByteRange, offset: int, length: int) -> bytes:
        """See Storage."""
        with self._lock:  # no other thread may close the descriptor
            descriptor = self._descriptor(byte_range.file)
            try:
                rest = max(0, os.fstat(descriptor).st_size - offset)  # os.pread allocates the length it is given
                return os.pread(descriptor, min(length, rest), offset)
            except OSError as error:
                raise UserError(
                    "MSA-DATA-039",
                    f"'{self.folder / byte_range.file}' cannot be read at byte {offset} ({error.strerror}); check the disk, or "
                    "copy the shard again",
                ) from None

    def fetch(self, byte_range: ByteRange) -> None:
        """See Storage."""
        if byte_range.stop is not None and hasattr(os, "posix_fadvise"):  # Linux; elsewhere the kernel guesses
            with self._lock:
                descriptor = self._descriptor(byte_range.file)
                os.posix_fadvise(
                    descriptor, byte_range.start, byte_range.stop - byte_range.start, os.POSIX_FADV_WILLNEED
                )

    def invalidate(self, byte_range: ByteRange) -> bool:
        """See Storage."""
        return False

    def _descriptor(self, file: str) -> int:
        if file not in self._open:
            try:
                self._open[file] = os.open(self.folder / file, os.O_RDONLY)
            except OSError as error:
                raise UserError(
                    "MSA-DATA-038",
                    f"'{self.folder / file}' cannot be opened ({error.strerror}), though the manifest lists its shard; "
                    "copy it too, or pack the dataset again",
                ) from None
            while len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(file)
        return self._open[file]

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStorage, (self.folder,)  # descriptors and locks belong to one process


def _close(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
