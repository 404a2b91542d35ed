"""Shards at an address (http(s)://, hf://, s3://, gs://, az://), read by byte ranges through a cache that the node shares."""

import importlib.util
import mmap
import threading
from collections import OrderedDict
from typing import Any

from msanet.awake_clock import awake_clock
from msanet.config import StorageConfig
from msanet.data.storage.base import ByteRange
from msanet.data.storage.cache import NodeCache, cache_folder
from msanet.data.storage.http import HttpTransport
from msanet.data.storage.hub import hub_address, hub_token
from msanet.data.storage.object_store import ObjectTransport
from msanet.data.storage.transfer import Transfer, Transport, download_with_retries
from msanet.errors import UserError
from msanet.secrets import masked

_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}


def open_remote(location: str, settings: StorageConfig) -> "RemoteStorage":
    """The storage at an address; connects on first use. UserError where it cannot be read by this installation."""
    scheme = location.partition("://")[0]
    if scheme in ("http", "https"):
        return RemoteStorage(location, HttpTransport(location, settings.max_connections), settings)
    if scheme == "hf":
        transport = HttpTransport(hub_address(location), settings.max_connections, hub_token(), location.rstrip("/"))
        return RemoteStorage(location, transport, settings)
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
        f"addresses that start with '{scheme}://' cannot be read, expected file://, http://, https://, hf://, s3://, gs://, "
        "az:// or a path; copy the shards to one of these",
        setting="data.path",
    )


class RemoteStorage:
    """A folder of shards at an address. See Storage. Two addresses of the same shards share their cache entries."""

    def __init__(self, address: str, transport: Transport, settings: StorageConfig) -> None:
        self.location = transport.location
        self._address, self._transport, self._settings = address, transport, settings
        self._cache = NodeCache(cache_folder(settings.cache_dir) / "shards", settings.cache_limit_bytes)
        self._slots = threading.Semaphore(settings.max_connections)
        self._uncached: OrderedDict[str, memoryview] = OrderedDict()  # the newest of what the cache could not take
        self._lock = threading.Lock()

    def read_file(self, file: str, limit: int) -> bytes:
        """See Storage."""
        return bytes(self._download(file, 0, None, awake_clock.now(), limit))

    def read(self, byte_range: ByteRange, offset: int, length: int) -> bytes:
        """See Storage."""
        first = offset - byte_range.start
        limit = first + length if byte_range.stop is None else None  # else the range bounds it
        return bytes(self._view(byte_range, limit)[first : first + length])

    def fetch(self, byte_range: ByteRange) -> None:
        """See Storage."""
        self._view(byte_range)

    def invalidate(self, byte_range: ByteRange) -> bool:
        """See Storage. Always True: bytes from a network are worth another attempt."""
        key = _key(byte_range)
        with self._lock:
            self._uncached.pop(key, None)
        self._cache.invalidate(key)
        self._transport.recheck(byte_range.file)
        return True

    def _view(self, byte_range: ByteRange, limit: int | None = None) -> memoryview:
        key, started = _key(byte_range), awake_clock.now()
        with self._lock:
            kept = self._uncached.get(key)
        if kept is not None:
            return kept
        view = self._cache.get(
            key, lambda: self._download(byte_range.file, byte_range.start, byte_range.stop, started, limit)
        )
        if not isinstance(view.obj, mmap.mmap):
            with self._lock:
                self._uncached[key] = view
                if len(self._uncached) > 2 * self._settings.max_connections:
                    self._uncached.popitem(last=False)
        return view

    def _download(self, file: str, start: int, stop: int | None, started: float, limit: int | None = None) -> bytearray:
        """started: when the caller asked. Waiting for another process that fetches the same counts, queueing here does not."""
        queued = awake_clock.now()
        with self._slots:
            timeout = self._settings.download_timeout_seconds
            deadline = started + awake_clock.now() - queued + timeout
            return download_with_retries(self._transport, Transfer(file, start, stop, deadline, limit), timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_remote, (self._address, self._settings)  # connections and locks belong to one process


def _key(byte_range: ByteRange) -> str:
    end = byte_range.file[-100:] if byte_range.stop is None else byte_range.stop
    return f"{byte_range.digest}-{byte_range.start}-{end}"
