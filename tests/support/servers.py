"""Servers for tests: a real nginx, an HTTP server whose faults are scripted, an S3 and an Azure server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import urllib3

from support.ranks import free_port


@contextmanager
def nginx(folder: Path, workplace: Path, extra: str = "") -> Iterator[tuple[str, Path]]:
    """Serve a folder with the real nginx. Yields its address and its log (one line per request: bytes of body, path)."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    workplace.mkdir()
    workplace.chmod(0o755)
    port, log = free_port(), workplace / "access.log"
    folders = "".join(
        f"{kind}_temp_path {workplace}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (workplace / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {workplace}/pid; error_log {workplace}/error.log; {user}"
        "events { worker_connections 64; }"
        f"http {{ {folders} log_format bytes '$body_bytes_sent $uri'; access_log {log} bytes; "
        f"server {{ listen 127.0.0.1:{port}; root {folder}; {extra} }} }}"
    )
    process = subprocess.Popen([program, "-p", workplace, "-c", workplace / "nginx.conf"], stderr=subprocess.PIPE)
    try:
        for _ in range(100):
            with suppress(OSError, urllib3.exceptions.HTTPError):
                urllib3.request("GET", f"http://127.0.0.1:{port}/", retries=False, timeout=5)
                break
            assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.terminate()
        process.communicate(timeout=20)


def write_certificate(certificate: Path, key: Path) -> None:
    """A self-signed certificate for 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, secret.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@dataclass
class Answer:
    """How one request is answered; by default as it should be."""

    status: int = 0  # instead of the content
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # close the connection after so many bytes of the body
    stall: bool = False  # send nothing more after `cut` bytes, but keep the connection
    drip: float = 0.0  # seconds between single bytes
    ignore_range: bool = False
    length: int = 0  # added to the Content-Length
    raw: bytes = b""  # instead of an HTTP answer


@dataclass
class Request:
    """What came, and how many bytes of body went out."""

    path: str
    headers: dict[str, str]
    sent: int = 0

    @property
    def first(self) -> int:
        """The first byte that was asked for."""
        match = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", ""))
        return int(match[1]) if match else 0


class FaultyServer(ThreadingHTTPServer):
    """Serves `content` at every path, with ranges and ETags. The answers in `plan` come first, one per request."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.etag = content, '"first"'
        self.plan: list[Answer] = []
        self.always: Answer | None = None
        self.requests: list[Request] = []
        self.connections = 0
        self.released = threading.Event()
        self.location = f"http://127.0.0.1:{self.server_port}/data"

    def __enter__(self) -> FaultyServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client went away, as it should in many tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        answer = server.plan.pop(0) if server.plan else server.always or Answer()
        request = Request(self.path, dict(self.headers.items()))
        server.requests.append(request)
        if answer.raw:
            self.wfile.write(answer.raw)
            self.close_connection = True
            return
        size = len(server.content)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status, first, end = 200, 0, size
        if match and not answer.ignore_range:
            status, first, end = 206, int(match[1]), min(int(match[2] or size) + 1, size)
        if answer.status:
            status, first, end = answer.status, 0, 0
        elif self.headers.get("If-Match", server.etag) != server.etag:
            status, first, end = 412, 0, 0
        elif first >= size:
            status, first, end = 416, 0, 0
        self.send_response(status)
        headers = {"ETag": server.etag, "Content-Length": str(end - first + answer.length)}
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        if status == 416:
            headers["Content-Range"] = f"bytes */{size}"
        for name, value in {**headers, **answer.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self._send(server.content[first:end], answer, request)

    def _send(self, body: bytes, answer: Answer, request: Request) -> None:
        kept = body if answer.cut is None else body[: answer.cut]
        step = 1 if answer.drip else 64 * 1024
        for start in range(0, len(kept), step):
            self.wfile.write(kept[start : start + step])
            request.sent += len(kept[start : start + step])
            if answer.drip and self.server.released.wait(answer.drip):
                break
        if answer.stall:
            self.server.released.wait(60)
        if answer.cut is not None or answer.stall or answer.length:
            self.close_connection = True


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server of moto with the bucket 'shards', to which the environment points. Yields a boto3 client."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        urllib3.request("POST", f"http://{host}:{port}/moto-api/reset")  # moto keeps its state in the process
        client.create_bucket(Bucket="shards")
        yield client
    finally:
        server.stop()


AZURE_ACCOUNT = "account"


class AzureServer(ThreadingHTTPServer):
    """The two calls of Azure's blob service that reading needs, on `blobs` of {"container/path": content}.

    Anything else, and what is not there, is answered as by the service: 404, BlobNotFound. `status` is every answer's, if set.
    """

    daemon_threads = True

    def __init__(self, blobs: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _AzureHandler)
        self.blobs, self.status = blobs, 0

    @property
    def connection_string(self) -> str:
        endpoint = f"http://127.0.0.1:{self.server_port}/{AZURE_ACCOUNT}"
        return f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey=a2V5;BlobEndpoint={endpoint};"


class _AzureHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AzureServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix(f"/{AZURE_ACCOUNT}/")
        content = self.server.blobs.get(path)
        status, body, headers = (
            200,
            content or b"",
            {"x-ms-blob-type": "BlockBlob", "ETag": f'"0x{zlib.crc32(content or b""):X}"'},
        )
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("x-ms-range", ""))
        if match and content:
            status, body = 206, content[int(match[1]) : int(match[2]) + 1]
            headers["Content-Range"] = f"bytes {match[1]}-{int(match[1]) + len(body) - 1}/{len(content)}"
        if content is None or self.server.status:
            status, body = self.server.status or 404, b""
            headers = {"x-ms-error-code": "BlobNotFound" if content is None else "AuthorizationFailure"}
        self.send_response(status)
        headers |= {"Content-Length": str(len(body)), "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD


@contextmanager
def azure_server(monkeypatch: pytest.MonkeyPatch, blobs: dict[str, bytes]) -> Iterator[AzureServer]:
    """An AzureServer to which the environment points."""
    server = AzureServer(blobs)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", server.connection_string)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
