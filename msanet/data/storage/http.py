"""Ranges of files of an HTTP(S) server, with urllib3."""

import os
import re
import sys
from base64 import b64encode
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    LocationValueError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProxySchemeUnknown,
    ResponseError,
    SSLError,
    TimeoutError,
)

from msanet.awake_clock import awake_clock
from msanet.data.storage.base import require_size
from msanet.data.storage.transfer import Transfer, TransientError, access_denied, changed, not_found, too_short
from msanet.errors import UserError
from msanet.secrets import MASK, without_secrets

_READ_TIMEOUT = 30.0  # seconds without a byte after which a connection is closed
_CHUNK_BYTES = 2**20
_MAX_DISCARDED_BYTES = 64 * 2**20  # a longer file is not read from a server that ignores Range
_RETRYABLE_STATUS = {408, 425, 429}  # and 5xx
_REDIRECTS = urllib3.Retry(total=5, connect=0, read=0, status=0, other=0, redirect=5, respect_retry_after_header=False)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class HttpTransport:
    """A folder of an HTTP(S) server. Credentials in the address go into a header, proxies come from the environment.

    Args:
        address: Of the folder.
        connections: How many are kept open.
        token: Sent as `Authorization: Bearer`, to the address's own host only.
        location: How messages name the folder, if not by its address.
    """

    def __init__(self, address: str, connections: int, token: str | None = None, location: str | None = None) -> None:
        try:
            parts = urlsplit(address)
        except ValueError as error:
            raise UserError(
                "MSA-DATA-025",
                f"'{address.rpartition('@')[2]}' is not a valid address ({error}); fix data.path",
                setting="data.path",
            ) from None
        host = parts.netloc.rpartition("@")[2]
        self._url = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        rest = address.partition("://")[2].removeprefix(parts.netloc)
        self.location = f"{parts.scheme}://{MASK}@{rest.rpartition('@')[2]}" if "@" in rest else self._url
        if "@" in rest and ":" in host and not host.rpartition(":")[2].isdigit():
            raise UserError(
                "MSA-DATA-025",
                f"'{self.location}' has a password with /, ? or #, expected these as %2F, %3F and %23; fix data.path",
                setting="data.path",
            )
        if not host or parts.query or parts.fragment:
            raise UserError(
                "MSA-DATA-025",
                f"'{self.location}' has a query (?...) or fragment (#...) or no host, expected the plain address of a folder, "
                "such as https://host/shards; the names of its files are appended to it",
                setting="data.path",
            )
        self._host, self._scheme, self._connections = host, parts.scheme, connections
        self._headers = {"Accept-Encoding": "identity"}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + b64encode(secret.encode()).decode()
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self.location = location or self.location
        self._etags: dict[str, str] = {}
        self._pool: urllib3.PoolManager | None = None
        self._process = 0

    def attempt(self, transfer: Transfer) -> None:
        """See Transport."""
        response = self._request(transfer)
        try:
            self._check_status(response, transfer)
            if response.status == 416:
                return self._check_end_of_file(response, transfer)
            skip, end, size = self._span(response, transfer)
            _receive(response, transfer, skip, end)
            if end is not None and end not in (transfer.stop, size):
                raise TransientError(f"the server sent only the bytes before {end}")
        except HTTPError as error:
            raise TransientError(_explain(error)) from None
        finally:
            response.close()  # a connection that was read to the end is back in the pool already

    def recheck(self, file: str) -> None:
        """See Transport: every request names the ETag."""

    def _request(self, transfer: Transfer) -> urllib3.BaseHTTPResponse:
        headers = dict(self._headers)
        if transfer.position or transfer.stop is not None:
            headers["Range"] = f"bytes={transfer.position}-{'' if transfer.stop is None else transfer.stop - 1}"
        if transfer.file in self._etags:
            headers["If-Match"] = self._etags[transfer.file]
        try:
            if self._pool is None or self._process != os.getpid():  # sockets are not shared with a forked process
                self._pool, self._process = self._connect(), os.getpid()
            return self._pool.request(
                "GET",
                f"{self._url}/{quote(transfer.file)}",
                headers=headers,
                retries=_REDIRECTS,
                timeout=urllib3.Timeout(connect=transfer.time_left(10.0), read=transfer.time_left(_READ_TIMEOUT)),
                preload_content=False,
                decode_content=False,
            )
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) else error
            if isinstance(reason, ResponseError | LocationValueError) or (
                isinstance(reason, SSLError) and "VERIFY_FAILED" in str(reason)
            ):
                raise UserError(
                    "MSA-DATA-035",
                    f"'{self.location}/{transfer.file}' cannot be read: {_explain(error)}; fix the address, or name "
                    "the server's certificate in SSL_CERT_FILE",
                    setting="data.path",
                ) from None
            raise TransientError(_explain(error)) from None

    def _check_status(self, response: urllib3.BaseHTTPResponse, transfer: Transfer) -> None:
        """Raise for every answer without bytes, and for bytes of another version of the file."""
        status, address = response.status, f"{self.location}/{transfer.file}"
        if status in _RETRYABLE_STATUS or status >= 500:
            raise TransientError(f"HTTP {status} {response.reason or ''}".rstrip(), _retry_after(response))
        if status in (401, 403, 407):
            advice = "check its permissions, or give credentials in data.path as https://USER:PASSWORD@host/..."
            raise access_denied(address, f"HTTP {status}", advice)
        if status in (404, 410):
            raise not_found(address, f" (HTTP {status})")
        etag = response.headers.get("ETag", "")
        first = self._etags.get(transfer.file)
        if status == 412 or (first and etag and etag != first and status in (200, 206)):
            raise changed(address, first, etag or "another")
        if status not in (200, 206, 416):
            raise UserError(
                "MSA-DATA-032",
                f"'{address}' was answered with HTTP {status}, expected 200 or 206; fix data.path",
                setting="data.path",
            )
        if status != 416 and etag.startswith('"'):  # a weak one (W/) cannot be matched
            self._etags.setdefault(transfer.file, etag)

    def _check_end_of_file(self, response: urllib3.BaseHTTPResponse, transfer: Transfer) -> None:
        size = response.headers.get("Content-Range", "").removeprefix("bytes */")
        if not (transfer.data and size == str(transfer.position)):  # else it is complete, though announced as longer
            raise too_short(f"{self.location}/{transfer.file}", size or "too few", transfer.position)

    def _span(self, response: urllib3.BaseHTTPResponse, transfer: Transfer) -> tuple[int, int | None, int | None]:
        """(bytes to discard first, position to read to or None for all, size of the file or None if unknown)."""
        address, skip, end, size = f"{self.location}/{transfer.file}", 0, None, None
        if response.status == 206:
            text = response.headers.get("Content-Range", "")
            match = _RANGE.fullmatch(text)
            asked = f"{transfer.position}-{'' if transfer.stop is None else transfer.stop - 1}"
            if not match or int(match[1]) != transfer.position or int(match[2]) >= (transfer.stop or sys.maxsize):
                raise TransientError(f"Content-Range was '{text}', asked for bytes {asked}")
            end = int(match[2]) + 1
            size = None if match[3] == "*" else int(match[3])
        else:  # the complete file
            length = response.headers.get("Content-Length", "")
            skip, end = transfer.position, transfer.stop
            if length.isdigit():
                size = int(length)
                end = min(size, size if end is None else end)
            if transfer.stop is not None and max(size or 0, transfer.start) > _MAX_DISCARDED_BYTES:
                raise UserError(
                    "MSA-DATA-034",
                    f"'{address}' has {length or 'many'} bytes and its server ignores Range requests, so that each read would "
                    "transfer all of it; use a server that serves ranges, or copy the shards to a local folder",
                )
        require_size(address, size or 0, transfer.limit)
        return skip, end, size

    def _connect(self) -> urllib3.PoolManager:
        proxies = getproxies()
        proxy = proxies.get(self._scheme) or proxies.get("all")
        if not proxy or proxy_bypass(self._host):
            return urllib3.PoolManager(maxsize=self._connections)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        secret = None if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        try:
            return urllib3.ProxyManager(
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
                proxy_headers=urllib3.make_headers(proxy_basic_auth=secret),
                maxsize=self._connections,
            )
        except ProxySchemeUnknown:
            raise UserError(
                "MSA-DATA-036",
                f"the proxy in the variable {self._scheme}_proxy starts with '{parts.scheme}://', expected http:// or "
                f"https://; change it, or add {self._host} to no_proxy",
            ) from None


def _receive(response: urllib3.BaseHTTPResponse, transfer: Transfer, skip: int, end: int | None) -> None:
    while end is None or transfer.position < end:
        want = skip or (_CHUNK_BYTES if end is None else end - transfer.position)
        chunk = response.read1(min(want, _CHUNK_BYTES))
        if awake_clock.now() > transfer.deadline:
            raise TransientError("the server was too slow")
        if not chunk:
            if end is not None:
                raise TransientError(f"the connection closed {end - transfer.position} bytes early")
            return
        if skip:
            skip -= len(chunk)
        else:
            transfer.data += chunk
            require_size(transfer.file, len(transfer.data), transfer.limit)


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    try:
        value = response.headers.get("Retry-After")
        return None if value is None else _REDIRECTS.parse_retry_after(value)
    except InvalidHeader:
        return None


def _explain(error: HTTPError) -> str:
    """What went wrong, without urllib3's objects."""
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    if isinstance(reason, NameResolutionError):
        return "the name of the server is not known"
    if isinstance(reason, TimeoutError) and not isinstance(reason, NewConnectionError):  # which is one, to urllib3
        return "the server stopped sending"
    return without_secrets(" ".join(map(str, reason.args)).rpartition("): ")[2])
