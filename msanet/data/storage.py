"""Where shards lie: a local folder, or a remote one that is read through a cache on each node.

Reading is by extent: the bytes of a shard that are fetched at once, a block of the order, so that what a remote server
sends is what the order needs next. A local folder has no use for extents and reads by position.
"""

import os
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote

from msanet.config import StorageConfig
from msanet.errors import UserError
from msanet.secrets import MASK

_OPEN_FILES = 64


class Extent(NamedTuple):
    """Bytes [start, stop) of a file; stop None: to its end. digest: sha256 of the shard that it belongs to.

    The digest names the content, so that a cache never serves the bytes of another version.
    """

    file: str
    digest: str
    start: int
    stop: int | None


class Storage(Protocol):
    """A folder of shards. Cheap to build and to send to a loader process; connects and opens on first use.

    location: as the user named it, for messages. All methods may be called from several threads. Faults of the
    storage itself (no such file, no connection within the deadline) are UserErrors that name the location; a read
    beyond a file's end returns what is there.
    """

    location: str

    def read_file(self, file: str, limit: int) -> bytes:
        """A small file, whole and never from a cache. UserError if it is missing or longer than `limit` bytes."""
        ...

    def read(self, extent: Extent, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length) of the file, which lie inside the extent; fewer where the file ends before."""
        ...

    def fetch(self, extent: Extent) -> None:
        """Bring an extent near, so that a later `read` does not wait. Local folders tell the kernel."""
        ...

    def forget(self, extent: Extent) -> bool:
        """Drop a local copy that turned out to be wrong. Whether reading again makes sense."""
        ...


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
            raise UserError(f"'{path}' is missing; copy it too, or pack the dataset again")
        if path.stat().st_size > limit:
            raise UserError(
                f"'{path}' has {path.stat().st_size} bytes, expected at most {limit}; it is no file of ours"
            )
        return path.read_bytes()

    def read(self, extent: Extent, offset: int, length: int) -> bytes:
        """See Storage."""
        with self._lock:  # no other thread may close the descriptor
            descriptor = self._descriptor(extent.file)
            try:
                rest = max(0, os.fstat(descriptor).st_size - offset)  # Python makes room for all that it is asked for
                return os.pread(descriptor, min(length, rest), offset)
            except OSError as error:
                raise UserError(
                    f"'{self.folder / extent.file}' cannot be read at byte {offset} ({error.strerror}), expected a sound disk; "
                    "check it, or copy the shard again"
                ) from None

    def fetch(self, extent: Extent) -> None:
        """See Storage."""
        if extent.stop is not None and hasattr(os, "posix_fadvise"):  # Linux; elsewhere the kernel guesses
            with self._lock:
                descriptor = self._descriptor(extent.file)
                os.posix_fadvise(descriptor, extent.start, extent.stop - extent.start, os.POSIX_FADV_WILLNEED)

    def forget(self, extent: Extent) -> bool:
        """See Storage."""
        return False

    def _descriptor(self, file: str) -> int:
        if file not in self._open:
            try:
                self._open[file] = os.open(self.folder / file, os.O_RDONLY)
            except OSError as error:
                raise UserError(
                    f"'{self.folder / file}' cannot be opened ({error.strerror}), though the manifest lists its shard; "
                    "copy it too, or pack the dataset again"
                ) from None
            while len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(file)
        return self._open[file]

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder}  # descriptors and locks belong to the process that made them

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]


def _close(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def open_storage(location: str, settings: StorageConfig | None = None) -> Storage:
    """The storage at a path, or at a file://, http://, https://, s3:// or gs:// address.

    Raises UserError for an address that cannot be read, or where the library for it is not installed.
    """
    scheme, separator, rest = location.partition("://")
    if not separator:
        return LocalStorage(Path(location.removeprefix("file:")))
    if MASK in location:
        raise UserError(
            f"'{location}' has {MASK} for a password or key, which no file of a run keeps; give the whole address again, to "
            "train.py as data.path=..., to evaluate.py as --data"
        )
    if scheme == "file":
        return LocalStorage(Path(unquote(rest)))
    from msanet.data.remote import open_remote  # its libraries take time to import, and may be absent

    return open_remote(location, settings or StorageConfig())
