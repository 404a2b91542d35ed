"""Ranges of files of an object store (s3://, gs://, az://), with fsspec."""

import errno
import os
from typing import Any

from msanet.data.storage.base import require_size
from msanet.data.storage.transfer import Transfer, TransientError, access_denied, changed, not_found, too_short
from msanet.errors import UserError
from msanet.secrets import masked, without_secrets

_READ_TIMEOUT = 30  # seconds without a byte after which a connection is closed


class ObjectTransport:
    """A folder of an object store, read by s3fs, gcsfs or adlfs, which find the credentials."""

    def __init__(self, address: str) -> None:
        self.location = masked(address.rstrip("/"))
        if "@" in address.partition("://")[2].partition("/")[0] or "?" in address:
            raise UserError(
                "MSA-DATA-025",
                f"'{self.location}' has a key or a query (?...), expected a folder's address such as s3://bucket/shards; give "
                "keys as the store's own tools take them, such as AWS_ACCESS_KEY_ID",
                setting="data.path",
            )
        self._folder = address.rstrip("/")
        self._files: Any = None
        self._process = 0
        self._sizes: dict[str, int] = {}
        self._etags: dict[str, str] = {}

    def attempt(self, transfer: Transfer) -> None:
        """See Transport."""
        address = f"{self.location}/{transfer.file}"
        try:
            size = self._size(transfer)
            stop = size if transfer.stop is None else min(size, transfer.stop)
            require_size(address, size, transfer.limit)
            if transfer.start > stop:
                raise too_short(address, size, transfer.start)
            data = self._call("_cat_file", transfer, start=transfer.start, end=stop) if stop > transfer.start else b""
        except FileNotFoundError:
            raise not_found(address) from None
        except (UserError, TypeError, AttributeError, ImportError, NotImplementedError):
            raise  # the last four are bugs, not the store's answer
        except Exception as error:  # each library has its own
            what = without_secrets(f"{type(error).__name__}: {' '.join(str(error).split())}").removesuffix(": ")
            denied = isinstance(error, PermissionError) or getattr(error, "status_code", None) in (401, 403)
            if denied or "Credential" in type(error).__name__:
                raise access_denied(address, what, "check the credentials and permissions") from None
            # adlfs: ValueError where no account is named
            if (isinstance(error, OSError) and error.errno == errno.EINVAL) or isinstance(error, ValueError):
                raise UserError(
                    "MSA-DATA-035",
                    f"'{address}' cannot be read ({what}); check data.path and the credentials",
                    setting="data.path",
                ) from None
            raise TransientError(what) from None
        if len(data) != stop - transfer.start:
            self.recheck(transfer.file)
            raise TransientError(f"{len(data)} bytes came instead of {stop - transfer.start}")
        transfer.data[:] = data

    def recheck(self, file: str) -> None:
        """See Transport."""
        self._sizes.pop(file, None)

    def _size(self, transfer: Transfer) -> int:
        size = self._sizes.get(transfer.file)
        if size is None:
            info = self._call("_info", transfer)
            etag = str(info.get("ETag") or info.get("etag"))
            first = self._etags.setdefault(transfer.file, etag)
            if etag != first:
                raise changed(f"{self.location}/{transfer.file}", first, etag)
            size = self._sizes[transfer.file] = int(info["size"])
        return size

    def _call(self, method: str, transfer: Transfer, **arguments: int) -> Any:
        import fsspec.asyn

        if self._files is None or self._process != os.getpid():  # its event loop is not shared with a forked process
            self._process = os.getpid()
            scheme = self._folder.partition("://")[0]
            options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
            if scheme == "s3":
                options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": _READ_TIMEOUT}
            self._files = fsspec.filesystem(scheme, **options)
        path = self._folder.partition("://")[2] + "/" + transfer.file
        coroutine = getattr(self._files, method)
        return fsspec.asyn.sync(
            self._files.loop, coroutine, path, timeout=transfer.time_left(float("inf")), **arguments
        )
