"""Shards behind an address: http(s)://, s3://, gs://. Read by extents, through a cache that the node shares."""

import importlib.util
import mmap
import threading
import time
from collections import OrderedDict
from typing import Any

from msanet.config import StorageConfig
from msanet.data.storage.base import ByteRange
from msanet.data.storage.cache import NodeCache, cache_folder
from msanet.data.storage.http import HttpTransport
from msanet.data.storage.object_store import ObjectTransport
from msanet.data.storage.transfer import Transfer, Transport, download_with_retries
from msanet.errors import UserError
from msanet.secrets import masked

_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs"}


def open_remote(location: str, settings: StorageConfig) -> "RemoteStorage":
    """The storage at an address; connects on first use. UserError where it cannot be read by this installation."""
    scheme = location.partition("://")[0]
    if scheme in ("http", "https"):
        return RemoteStorage(location, HttpTransport(location, settings.max_connections), settings)
    if scheme in _LIBRARIES:
        library = _LIBRARIES[scheme]
        if importlib.util.find_spec(library) is None:
            raise UserError(
                "MSA-DATA-027",
                f"'{masked(location)}' needs the package {library}, which is not installed; run: pip install {library}",
            )
        return RemoteStorage(location, ObjectTransport(location), settings)
    raise UserError(
        "MSA-DATA-026",
        f"addresses that start with '{scheme}://' cannot be read, expected file://, http://, https://, s3://, gs:// or a "
        "path; copy the shards to one of these",
        setting="data.path",
    )


class RemoteStorage:
    """A folder of shards behind an address. See Storage.

    What a cache entry holds is named by digest and place, so that bytes of another version are never served, and two
    addresses of the same shards share them.
    """

    def __init__(self, address: str, transport: Transport, settings: StorageConfig) -> None:
        self.location = transport.location
        self._address, self._transport, self._settings = address, transport, settings
        self._cache = NodeCache(cache_folder(settings.cache_dir) / "shards", settings.cache_limit_bytes)
        self._slots = threading.Semaphore(settings.max_connections)
        self._uncached: OrderedDict[str, memoryview] = OrderedDict()  # what the cache could not take, the newest
        self._lock = threading.Lock()

    def read_file(self, file: str, limit: int) -> bytes:
        """See Storage."""
        return bytes(self._download(file, 0, None, time.monotonic(), limit))

    def read(self, extent: ByteRange, offset: int, length: int) -> bytes:
        """See Storage."""
        first = offset - extent.start
        limit = first + length if extent.stop is None else None  # else the extent says how much may come
        return bytes(self._view(extent, limit)[first : first + length])

    def fetch(self, extent: ByteRange) -> None:
        """See Storage."""
        self._view(extent)

    def invalidate(self, extent: ByteRange) -> bool:
        """See Storage. Always True: what came over a network is worth another try."""
        key = _key(extent)
        with self._lock:
            self._uncached.pop(key, None)
        self._cache.invalidate(key)
        self._transport.recheck(extent.file)
        return True

    def _view(self, extent: ByteRange, limit: int | None = None) -> memoryview:
        key, begun = _key(extent), time.monotonic()
        with self._lock:
            kept = self._uncached.get(key)
        if kept is not None:
            return kept
        view = self._cache.get(key, lambda: self._download(extent.file, extent.start, extent.stop, begun, limit))
        if not isinstance(view.obj, mmap.mmap):
            with self._lock:
                self._uncached[key] = view
                if len(self._uncached) > 2 * self._settings.max_connections:
                    self._uncached.popitem(last=False)
        return view

    def _download(self, file: str, start: int, stop: int | None, begun: float, limit: int | None = None) -> bytearray:
        """begun: when the caller asked; waiting for another process to fetch the same counts, queueing here does not."""
        queued = time.monotonic()
        with self._slots:
            until = begun + time.monotonic() - queued + self._settings.download_timeout_seconds
            return download_with_retries(
                self._transport, Transfer(file, start, stop, until, limit), self._settings.download_timeout_seconds
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return open_remote, (
            self._address,
            self._settings,
        )  # connections and locks belong to the process that made them


def _key(extent: ByteRange) -> str:
    if extent.stop is None:
        return f"{extent.digest}-{extent.start}-{extent.file[-100:]}"
    return f"{extent.digest}-{extent.start}-{extent.stop}"
