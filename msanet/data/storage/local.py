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
            self._open[file] = self._opened(file)
            while len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(file)
        return self._open[file]

    def _opened(self, file: str) -> int:
        """Raises UserError, with a code of its own where it is not this file alone that is gone."""
        try:
            return os.open(self.folder / file, os.O_RDONLY)
        except OSError as error:
            if self._is_gone():
                raise UserError(
                    "MSA-DATA-552",
                    f"'{self.folder / file}' cannot be opened ({error.strerror}): its folder and all shards are gone; mount it "
                    "or move it back, and run the same command again",
                    setting="data.path",
                ) from None
        try:  # it may have come back in between
            return os.open(self.folder / file, os.O_RDONLY)
        except OSError as error:
            raise UserError(
                "MSA-DATA-038",
                f"'{self.folder / file}' cannot be opened ({error.strerror}), though the manifest lists its shard; copy it too, "
                "or pack the dataset again",
            ) from None

    def _is_gone(self) -> bool:
        try:
            with os.scandir(self.folder) as entries:
                return next(entries, None) is None  # the place where it was mounted
        except OSError:
            return True

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStorage, (self.folder,)  # descriptors and locks belong to one process


def _close(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
