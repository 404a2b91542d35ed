"""A small Hub: the calls of huggingface_hub by which a model repository is created, committed to, and read."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_token_of_tests"
LARGE = 10_000
"""Files of at least so many bytes go by LFS (in the real one, those of 10 MB and all binary ones)."""


@dataclass
class Repository:
    """private; branches: name -> commits, the last one newest; each commit is {path: content}."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})


class HubServer(ThreadingHTTPServer):
    """Serves repositories in memory. fail: {what is in a path: HTTP status}, answered instead. calls: (method, path)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.fail: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []
        self.damage = False
        self.location = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[name]
        return repository.commits[repository.branches.get(revision, revision)]

    def commit(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """As if somebody had pushed these files, and no others."""
        repository = self.repositories.setdefault(name, Repository(False))
        sha = hashlib.sha1(repr((len(repository.commits), sorted(files))).encode()).hexdigest()
        repository.commits[sha] = files
        repository.branches[branch] = sha
        return sha


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def _answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        self.server.calls.append((method, path))
        status = next((status for part, status in self.server.fail.items() if part in path), 0)
        if status:
            return self._send(status, b'{"error": "as the test wants"}')
        if method != "PUT" and self.headers.get("Authorization") != f"Bearer {TOKEN}" and "/lfs/verify" not in path:
            public = [name for name, found in self.server.repositories.items() if not found.private]
            if method == "POST" or not any(name in path for name in public):
                return self._send(401, b'{"error": "Invalid credentials"}')
        for known, pattern, handle in _ROUTES:
            if known == method and (match := re.fullmatch(pattern, path)):
                return handle(self, body, *match.groups())
        return self._send(404, b'{"error": "not found"}', {"X-Error-Code": "RepoNotFound"})

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.repositories:
            found = {"error": "You already created this model repo", "url": f"{self.server.location}/{name}"}
            return self._send(409, json.dumps(found).encode())
        self.server.repositories[name] = Repository(
            wanted.get("visibility") == "private" or bool(wanted.get("private"))
        )
        return self._json({"url": f"{self.server.location}/{name}"})

    def validate(self, body: bytes) -> None:
        front = json.loads(body)["content"].split("---\n")[1]
        errors = (
            [] if "license: unknown-one" not in front else [{"message": '"license" must be one of [apache-2.0, ...]'}]
        )
        self._send(400 if errors else 200, json.dumps({"errors": errors, "warnings": []}).encode())

    def branch(self, body: bytes, name: str, branch: str) -> None:
        repository = self.server.repositories[name]
        if branch in repository.branches:
            return self._send(409, b'{"error": "Reference already exists"}')
        repository.branches[branch] = repository.branches["main"]
        return self._json({})

    def info(self, body: bytes, name: str, revision: str | None = None) -> None:
        repository = self.server.repositories.get(name)
        if repository is None:
            return self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        sha = repository.branches.get(revision or "main", revision or "")
        if sha not in repository.commits:
            return self._send(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
        siblings = [
            {"rfilename": path, "size": len(data), "blobId": "0" * 40}
            | ({"lfs": {"sha256": _sha256(data), "size": len(data), "pointerSize": 130}} if len(data) >= LARGE else {})
            for path, data in repository.commits[sha].items()
        ]
        return self._json(
            {"id": name, "modelId": name, "sha": sha, "private": repository.private, "siblings": siblings}
        )

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if name not in self.server.repositories or revision not in self.server.repositories[name].branches:
            return self._send(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
        modes = [
            {"path": file["path"], "uploadMode": "lfs" if file["size"] >= LARGE else "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        return self._json({"files": modes})

    def batch(self, body: bytes, name: str) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            oid, actions = wanted["oid"], {}
            if oid not in self.server.objects:
                href = f"{self.server.location}/lfs"
                actions = {"actions": {"upload": {"href": f"{href}/{oid}"}, "verify": {"href": f"{href}/verify"}}}
            objects.append({"oid": oid, "size": wanted["size"], **actions})
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        assert _sha256(body) == oid
        self.server.objects[oid] = body
        self._send(200)

    def verify(self, body: bytes) -> None:
        self._send(200 if json.loads(body)["oid"] in self.server.objects else 404)

    def receive(self, body: bytes, name: str, branch: str) -> None:
        files = dict(self.server.files(name, branch))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.server.commit(name, files, branch)
        self._json({"commitUrl": f"{self.server.location}/{name}/commit/{sha}", "commitOid": sha})

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        repository = self.server.repositories.get(name, Repository(True))
        sha = repository.branches.get(revision, revision)
        data = repository.commits.get(sha, {}).get(path)
        if data is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_sha256(data)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if self.server.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        return self._send(206 if start else 200, data[start:], headers)


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"/api/models/{_NAME}/branch/(.+)", _Handler.branch),
    ("GET", f"/api/models/{_NAME}/revision/(.+)", _Handler.info),
    ("GET", f"/api/models/{_NAME}", _Handler.info),
    ("POST", f"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    ("POST", f"/{_NAME}.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/([0-9a-f]{64})", _Handler.upload),
    ("POST", "/lfs/verify", _Handler.verify),
    ("POST", f"/api/models/{_NAME}/commit/(.+)", _Handler.receive),
    *((method, rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve) for method in ("GET", "HEAD")),
]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
