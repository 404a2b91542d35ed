"""Shards behind an address: the bytes that were packed, each sent once, or one sentence within the deadline."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msanet.config import StorageConfig
from msanet.data.manifest import MANIFEST_NAME, index_name, load_manifest, load_shard_index
from msanet.data.storage import ByteRange, LocalStorage, Storage, http, open_storage, remote, transfer
from msanet.data.storage.remote import RemoteStorage, open_remote
from msanet.errors import UserError
from support.errors import raises_user_error
from support.ranks import free_port
from support.servers import Answer, AzureServer, FaultyServer, azure_server, nginx, s3_server, write_certificate

CONTENT = np.random.default_rng(0).bytes(400_000)
WHOLE = ByteRange("train-000000.tar", "0" * 64, 0, len(CONTENT))
SLOW_STEP_FACTOR = 30  # seconds; what a slow machine may need beyond a deadline


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies of this machine, and pauses that a test can wait for."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(transfer, "_PAUSE_SECONDS", (0.01, 0.1))
    monkeypatch.setattr(transfer, "_MIN_ATTEMPT_SECONDS", 0.2)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(CONTENT) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> StorageConfig:
    return StorageConfig(cache_dir=tmp_path / "cache", download_timeout_seconds=20)


def read(storage: Storage, extent: ByteRange) -> bytes:
    return storage.read(extent, extent.start, (extent.stop or 10**7) - extent.start)


def extents(folder: Path) -> list[ByteRange]:
    """Every sample of every shard, and the indexes."""
    found = []
    for split in load_manifest(folder).splits.values():
        for shard in split.shards:
            found.append(ByteRange(index_name(shard.file), shard.sha256, 0, None))
            for sample in load_shard_index(folder, shard.file).samples:
                last = sample.members[-1]
                found.append(ByteRange(shard.file, shard.sha256, sample.members[0].offset, last.offset + last.length))
    return found


def assert_same(storage: Storage, folder: Path) -> None:
    local = LocalStorage(folder)
    assert storage.read_file(MANIFEST_NAME, 10**6) == (folder / MANIFEST_NAME).read_bytes()
    for extent in extents(folder):
        storage.fetch(extent)
        assert read(storage, extent) == read(local, extent), extent


def test_nginx_serves_every_sample(shards: Path, tmp_path: Path, settings: StorageConfig) -> None:
    with nginx(shards, tmp_path / "nginx") as (address, log):
        assert_same(open_storage(address, settings), shards)
        sent = log.read_text().splitlines()
    assert open_storage(address, settings).read(extents(shards)[1], extents(shards)[1].start, 10)  # nobody serves now
    tars = sum(int(line.split()[0]) for line in sent if line.endswith(".tar"))
    assert tars == sum((extent.stop or 0) - extent.start for extent in extents(shards))


def test_nginx_asks_for_a_password(shards: Path, tmp_path: Path, settings: StorageConfig) -> None:
    (tmp_path / "users").write_text("me:{PLAIN}s3cr@t\n")
    extra = f'auth_basic "x"; auth_basic_user_file {tmp_path}/users;'
    with nginx(shards, tmp_path / "nginx", extra) as (address, _):
        storage = open_storage(address.replace("://", "://me:s3cr%40t@"), settings)
        assert storage.read_file(MANIFEST_NAME, 10**6) == (shards / MANIFEST_NAME).read_bytes()
        again = pickle.loads(pickle.dumps(storage))
        assert read(again, extents(shards)[1])
        with pytest.raises(UserError) as error:
            open_storage(address.replace("://", "://me:wr0ng@"), settings).read_file(MANIFEST_NAME, 10**6)
    assert "HTTP 401" in str(error.value) and address in str(error.value)
    assert "wr0ng" not in str(error.value) and "s3cr" not in storage.location


def test_nginx_behind_a_redirect(shards: Path, tmp_path: Path, settings: StorageConfig) -> None:
    extra = "location /old/ { rewrite ^/old/(.*)$ /$1 redirect; } location /loop/ { return 302 /loop/x; }"
    with nginx(shards, tmp_path / "nginx", extra) as (address, _):
        assert_same(open_storage(f"{address}/old/", settings), shards)
        with pytest.raises(UserError, match="/loop/dataset.json' cannot be read: too many redirects"):
            open_storage(f"{address}/loop", settings).read_file(MANIFEST_NAME, 10**6)


def test_nginx_with_a_certificate_of_its_own(
    shards: Path, tmp_path: Path, settings: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    write_certificate(certificate, key)
    port = free_port()
    extra = f"listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"
    with nginx(shards, tmp_path / "nginx", extra):
        address = f"https://127.0.0.1:{port}"
        with pytest.raises(
            UserError, match=f"'{address}/dataset.json' cannot be read: .*VERIFY_FAILED.* SSL_CERT_FILE"
        ):
            open_storage(address, settings).read_file(MANIFEST_NAME, 10**6)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert_same(open_storage(address, settings), shards)


def test_each_byte_is_sent_once_and_over_one_connection(server: FaultyServer, settings: StorageConfig) -> None:
    storage = open_storage(server.location, settings)
    for _ in range(2):
        for start in range(0, 400_000, 50_000):
            extent = WHOLE._replace(start=start, stop=start + 50_000)
            storage.fetch(extent)
            assert storage.read(extent, start + 100, 1000) == CONTENT[start + 100 : start + 1100]
    assert [request.first for request in server.requests] == list(range(0, 400_000, 50_000))
    assert sum(request.sent for request in server.requests) == len(CONTENT)
    assert server.connections == 1


def test_content_is_known_by_its_digest(server: FaultyServer, settings: StorageConfig) -> None:
    assert read(open_storage(server.location, settings), WHOLE) == CONTENT
    assert read(open_storage(server.location + "/elsewhere/", settings), WHOLE) == CONTENT
    assert len(server.requests) == 1
    assert read(open_storage(server.location, settings), WHOLE._replace(digest="1" * 64)) == CONTENT
    assert len(server.requests) == 2


def test_read_file_asks_each_time(server: FaultyServer, settings: StorageConfig) -> None:
    storage = open_storage(server.location, settings)
    assert storage.read_file("dataset.json", len(CONTENT)) == CONTENT == storage.read_file("dataset.json", len(CONTENT))
    assert len(server.requests) == 2
    with pytest.raises(
        UserError, match=r"dataset.json' has 400000 bytes, expected at most 399999; it is not a file written by msanet"
    ):
        storage.read_file("dataset.json", len(CONTENT) - 1)
    server.plan = [Answer(headers={"Content-Length": "", "Connection": "close"}, cut=len(CONTENT))]
    with raises_user_error("MSA-DATA-005", mentions="1000"):
        storage.read_file("dataset.json", 1000)


def test_a_read_beyond_the_end_returns_what_is_there(server: FaultyServer, settings: StorageConfig) -> None:
    storage = open_storage(server.location, settings)
    extent = ByteRange("a.tar", "2" * 64, 399_000, 500_000)
    assert storage.read(extent, 399_000, 101_000) == CONTENT[399_000:]
    assert storage.read(extent, 400_000, 10) == b""
    with pytest.raises(UserError, match=r"a.tar' has 400000 bytes, expected more than 400001; upload the shard again"):
        storage.fetch(extent._replace(start=400_001))


@pytest.mark.parametrize(
    ("plan", "firsts"),
    [
        ([Answer(cut=1000), Answer(cut=70_000)], [0, 1000, 71_000]),
        ([Answer(cut=0)], [0, 0]),
        ([Answer(length=-50)], [0, 399_950]),
        ([Answer(length=50)], [0]),
        ([Answer(status=500), Answer(status=503), Answer(status=429), Answer(status=408)], [0] * 5),
        ([Answer(raw=b"no HTTP at all\r\n\r\n"), Answer(raw=b"HTTP/1.1 OK yes\r\n\r\n"), Answer(raw=b"")], [0] * 3),
        ([Answer(ignore_range=True)], [0]),
        ([Answer(cut=1000), Answer(ignore_range=True)], [0, 1000]),
        ([Answer(headers={"Content-Range": "bytes 5-399999/400000"})], [0, 0]),
        ([Answer(headers={"Content-Range": ""})], [0, 0]),
        ([Answer(headers={"Content-Range": "bytes 0-999/400000", "Content-Length": "1000"}, cut=1000)], [0, 1000]),
    ],
    ids=["cut", "empty", "short", "long", "5xx", "garbage", "no-range", "cut-no-range", "shifted", "unnamed", "part"],
)
def test_faults_that_pass(server: FaultyServer, settings: StorageConfig, plan: list[Answer], firsts: list[int]) -> None:
    server.plan = list(plan)
    assert read(open_storage(server.location, settings), WHOLE) == CONTENT
    assert [request.first for request in server.requests] == firsts


def test_a_whole_file_survives_cuts_and_wrong_lengths(server: FaultyServer, settings: StorageConfig) -> None:
    storage = open_storage(server.location, settings)
    for plan in ([Answer(cut=150_000)], [Answer(length=70)]):
        server.plan, server.requests = list(plan), []
        assert storage.read_file("dataset.json", 10**6) == CONTENT
        assert [request.first for request in server.requests] == [0, plan[0].cut or len(CONTENT)]


def test_a_silent_server_is_left(
    server: FaultyServer, settings: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_READ_TIMEOUT", 0.3)
    server.plan = [Answer(cut=1234, stall=True)]
    assert read(open_storage(server.location, settings), WHOLE) == CONTENT
    assert [request.first for request in server.requests] == [0, 1234]


@pytest.mark.parametrize(
    ("always", "words"),
    [
        (Answer(status=503), "0 of 400000 bytes .* last HTTP 503 Service Unavailable"),
        (Answer(cut=0, stall=True), "0 of 400000 bytes .* last the server stopped sending"),
        (Answer(drip=0.05), r"\d+ of 400000 bytes .* last the server was too slow"),
        (Answer(raw=b"garbage\r\n\r\n"), "0 of 400000 bytes .* last"),
        (Answer(cut=0), "0 of 400000 bytes .* last"),
    ],
    ids=["503", "stall", "drip", "garbage", "closed"],
)
def test_faults_that_stay_end_at_the_deadline(server: FaultyServer, tmp_path: Path, always: Answer, words: str) -> None:
    server.always = always
    storage = open_storage(server.location, StorageConfig(cache_dir=tmp_path / "c", download_timeout_seconds=1.5))
    begun = time.monotonic()
    with pytest.raises(UserError, match=words) as error:
        storage.fetch(WHOLE)
    assert 1 < time.monotonic() - begun < 1.5 + SLOW_STEP_FACTOR
    assert (
        f"'{server.location}/train-000000.tar' could not be read within storage.download_timeout_seconds=1.5 s"
        in str(error.value)
    )
    assert not list((tmp_path / "c" / "shards" / "partial").iterdir())


def test_who_waited_for_a_failure_does_not_wait_again(server: FaultyServer, tmp_path: Path) -> None:
    server.always = Answer(status=503)
    storage = open_storage(server.location, StorageConfig(cache_dir=tmp_path / "c", download_timeout_seconds=1))
    faults: list[str] = []

    def fetch() -> None:
        try:
            storage.fetch(WHOLE)
        except UserError as error:
            faults.append(str(error))

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SLOW_STEP_FACTOR)
    assert len(faults) == 3
    assert sum(bool(re.search("came in [123] attempts over 0 s", fault)) for fault in faults) == 2


def test_nobody_listens(tmp_path: Path) -> None:
    port = free_port()
    storage = open_storage(
        f"http://127.0.0.1:{port}/x", StorageConfig(cache_dir=tmp_path, download_timeout_seconds=0.5)
    )
    begun = time.monotonic()
    with pytest.raises(UserError, match=rf"'http://127.0.0.1:{port}/x/dataset.json' could not be read .* refused"):
        storage.read_file(MANIFEST_NAME, 100)
    assert time.monotonic() - begun < SLOW_STEP_FACTOR


def test_the_server_sends_retry_after(server: FaultyServer, settings: StorageConfig) -> None:
    server.plan = [Answer(status=503, headers={"Retry-After": "1"})]
    begun = time.monotonic()
    assert read(open_storage(server.location, settings), WHOLE) == CONTENT
    assert time.monotonic() - begun >= 1
    server.plan = [Answer(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(UserError, match="in 1 attempts .* HTTP 429"):
        read(open_storage(server.location, settings), WHOLE._replace(start=5))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "does not exist .HTTP 404.; fix data.path, or upload the file"),
        (403, "may not be read .HTTP 403.; check its permissions"),
        (401, "may not be read .HTTP 401.; check its permissions"),
        (400, "was answered with HTTP 400, expected 200 or 206; fix data.path"),
    ],
)
def test_what_will_not_pass_is_reported_at_once(
    server: FaultyServer, settings: StorageConfig, status: int, words: str
) -> None:
    server.always = Answer(status=status)
    with pytest.raises(UserError, match=f"'{server.location}/train-000000.tar' {words}"):
        open_storage(server.location, settings).fetch(WHOLE)
    assert len(server.requests) == 1


def test_a_file_that_changes_meanwhile_is_found(server: FaultyServer, settings: StorageConfig) -> None:
    storage = open_storage(server.location, settings)
    storage.fetch(WHOLE._replace(stop=1000))
    server.etag = '"second"'
    for extent in (WHOLE._replace(start=1000), WHOLE._replace(start=2000)):
        with pytest.raises(UserError, match='tar. changed while this run reads it .ETag "first", now "second"'):
            storage.fetch(extent)
    assert server.requests[-1].headers["If-Match"] == '"first"'
    assert all(request.sent == 0 for request in server.requests[1:])


def test_a_server_that_ignores_conditions_is_seen_through(server: FaultyServer, settings: StorageConfig) -> None:
    server.plan = [Answer(cut=1000), Answer(headers={"ETag": '"other"'})]
    with pytest.raises(UserError, match='changed while .*now "other"'):
        open_storage(server.location, settings).fetch(WHOLE)
    assert len(server.requests) == 2


def test_weak_etags_are_no_condition(server: FaultyServer, settings: StorageConfig) -> None:
    server.etag = 'W/"weak"'
    server.plan = [Answer(cut=1000)]
    assert read(open_storage(server.location, settings), WHOLE) == CONTENT
    assert not any("If-Match" in request.headers for request in server.requests)


def test_a_huge_file_is_not_read_whole_for_a_part(
    server: FaultyServer, settings: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_MAX_DISCARDED_BYTES", 100_000)
    server.always = Answer(ignore_range=True)
    with raises_user_error("MSA-DATA-034", mentions="400000"):
        open_storage(server.location, settings).fetch(WHOLE._replace(stop=10))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://host/x", "start with 'ftp://' cannot be read, expected file://, http://, https://, hf://"),
        ("https://host/x?sig=1", "'https://host/x' has a query"),
        ("http:///x", "no host"),
        ("http://[host/x", "'http://[host/x' is not a valid address (Invalid IPv6 URL); fix data.path"),
    ],
)
def test_addresses_that_cannot_be_read(address: str, words: str, settings: StorageConfig) -> None:
    with pytest.raises(UserError) as error:
        open_storage(address, settings)
    assert words in str(error.value)


def test_a_port_that_is_none(settings: StorageConfig) -> None:
    with raises_user_error("MSA-DATA-035", setting="data.path", mentions="http://host:99999/x/dataset.json"):
        open_storage("http://host:99999/x", settings).read_file(MANIFEST_NAME, 100)


def test_proxies_come_from_the_environment(
    server: FaultyServer, settings: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:pass@127.0.0.1:{server.server_port}")
    assert read(open_storage("http://shards.invalid/x", settings), WHOLE) == CONTENT
    assert server.requests[0].path == "http://shards.invalid/x/train-000000.tar"
    assert server.requests[0].headers["proxy-authorization"] == "Basic bWU6cGFzcw=="
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert open_storage(server.location, settings).read_file("x.json", 10**6) == CONTENT
    assert server.requests[1].path == "/data/x.json"
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(UserError, match="variable http_proxy starts with 'socks5://', expected http://"):
        open_storage("http://shards.invalid/x", settings).fetch(WHOLE._replace(start=1))


def test_requests_in_flight_are_limited(server: FaultyServer, tmp_path: Path) -> None:
    server.always = Answer(cut=0, stall=True)
    storage = open_storage(
        server.location, StorageConfig(cache_dir=tmp_path / "c", download_timeout_seconds=60, max_connections=2)
    )
    faults: list[UserError] = []

    def fetch(start: int) -> None:
        try:
            storage.fetch(WHOLE._replace(start=start))
        except UserError as error:
            faults.append(error)

    threads = [threading.Thread(target=fetch, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SLOW_STEP_FACTOR
    while len(server.requests) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)  # in which a third would come
    assert len(server.requests) == 2
    server.always = None
    server.released.set()
    for thread in threads:
        thread.join(SLOW_STEP_FACTOR)
    assert not faults
    assert {request.first for request in server.requests} == set(range(6))


def test_bad_local_copies_are_fetched_again(server: FaultyServer, settings: StorageConfig, tmp_path: Path) -> None:
    storage = open_storage(server.location, settings)
    storage.fetch(WHOLE)
    (entry,) = (tmp_path / "cache" / "shards" / "entries").iterdir()
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    assert read(storage, WHOLE) != CONTENT
    assert storage.invalidate(WHOLE)
    assert read(storage, WHOLE) == CONTENT
    assert len(server.requests) == 2


def test_without_a_cache_what_was_fetched_is_still_read(
    server: FaultyServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    storage = open_storage(server.location, StorageConfig(cache_dir=tmp_path / "file", max_connections=1))
    for start in range(5):
        storage.fetch(WHOLE._replace(start=start))
        assert read(storage, WHOLE._replace(start=start)) == CONTENT[start:]
    assert len(server.requests) == 5
    assert capfd.readouterr().err.count("warning: cache") == 1
    assert isinstance(storage, RemoteStorage) and len(storage._uncached) == 2


READER = """
import sys
from pathlib import Path
from msanet.config import StorageConfig
from msanet.data.storage import ByteRange, open_storage
location, cache, starts = sys.argv[1], Path(sys.argv[2]), map(int, sys.argv[3:])
storage = open_storage(location, StorageConfig(cache_dir=cache, download_timeout_seconds=60))
for start in starts:
    print(storage.read(ByteRange("train-000000.tar", "0" * 64, start, start + 50_000), start, 50_000).hex(), flush=True)
"""


def reader(server: FaultyServer, cache: Path, *starts: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, server.location, str(cache), *map(str, starts)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_are_sent_each_byte_once(server: FaultyServer, tmp_path: Path) -> None:
    starts = list(range(0, 400_000, 50_000))
    processes = [reader(server, tmp_path / "c", *order) for order in (starts, starts[::-1])]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    expected = [CONTENT[start : start + 50_000].hex() for start in starts]
    assert outputs == [expected, expected[::-1]]
    assert sorted(request.first for request in server.requests) == starts
    assert sum(request.sent for request in server.requests) == len(CONTENT)


def test_a_process_killed_while_it_downloads_harms_nobody(server: FaultyServer, tmp_path: Path) -> None:
    server.plan = [Answer(cut=20_000, stall=True)]
    process = reader(server, tmp_path / "c", 0)
    end = time.monotonic() + SLOW_STEP_FACTOR
    while not (server.requests and server.requests[0].sent == 20_000):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    storage = open_storage(server.location, StorageConfig(cache_dir=tmp_path / "c"))
    assert read(storage, WHOLE._replace(stop=50_000)) == CONTENT[:50_000]
    assert not list((tmp_path / "c" / "shards" / "partial").iterdir())
    assert len(list((tmp_path / "c" / "shards" / "entries").iterdir())) == 1


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, shards: Path) -> Iterator[Any]:
    """An S3 server that holds the shards below s3://shards/camvid."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install s3fs")
    with s3_server(monkeypatch) as client:
        for path in shards.iterdir():
            client.upload_file(str(path), "shards", f"camvid/{path.name}")
        yield client


def test_s3_serves_every_sample(s3: Any, shards: Path, settings: StorageConfig) -> None:
    storage = open_storage("s3://shards/camvid/", settings)
    assert_same(storage, shards)
    assert_same(pickle.loads(pickle.dumps(storage)), shards)
    extent = extents(shards)[1]
    size = (shards / extent.file).stat().st_size
    assert len(read(storage, extent._replace(stop=10 * size))) == size - extent.start
    with pytest.raises(UserError, match=f"{extent.file}' has {size} bytes, expected more than {size + 1}"):
        storage.fetch(extent._replace(start=size + 1, stop=size + 9))


def test_s3_errors_name_the_cause(s3: Any, shards: Path, settings: StorageConfig) -> None:
    with raises_user_error("MSA-DATA-029", setting="data.path", mentions="s3://shards/nothing/dataset.json"):
        open_storage("s3://shards/nothing", settings).read_file(MANIFEST_NAME, 10**6)
    with raises_user_error("MSA-DATA-029", setting="data.path", mentions="s3://no-such-bucket/x/dataset.json"):
        open_storage("s3://no-such-bucket/x", settings).read_file(MANIFEST_NAME, 10**6)
    with raises_user_error("MSA-DATA-005", mentions="dataset.json"):
        open_storage("s3://shards/camvid", settings).read_file(MANIFEST_NAME, 10)


def test_s3_refuses_wrong_credentials(s3: Any, settings: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib3

    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(variable, os.devnull)
    with raises_user_error("MSA-DATA-030", setting="data.path", mentions="NoCredentialsError"):
        open_storage("s3://shards/camvid", settings).read_file(MANIFEST_NAME, 10**6)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    urllib3.request("POST", f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth", body=b"0")
    try:
        with raises_user_error("MSA-DATA-030", setting="data.path", mentions="PermissionError"):
            open_storage("s3://shards/camvid", settings).read_file(MANIFEST_NAME, 10**6)
    finally:
        urllib3.request("POST", f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth", body=b"inf")


def test_s3_notices_a_file_that_changes(s3: Any, shards: Path, settings: StorageConfig) -> None:
    storage, extent = open_storage("s3://shards/camvid", settings), extents(shards)[1]
    right = read(storage, extent)
    s3.put_object(Bucket="shards", Key=f"camvid/{extent.file}", Body=bytes(10**5))
    assert read(storage, extent) == right, "of the cache"
    assert storage.invalidate(extent)
    with pytest.raises(UserError, match=f"'s3://shards/camvid/{extent.file}' changed while"):
        read(storage, extent)


def test_s3_that_does_not_answer_ends_at_the_deadline(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, begun = StorageConfig(cache_dir=tmp_path, download_timeout_seconds=1), time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(
            UserError, match="could not be read within storage.download_timeout_seconds=1 s: .* last FSTimeoutError"
        ):
            open_storage("s3://shards/camvid", settings).read_file(MANIFEST_NAME, 10**6)
    assert time.monotonic() - begun < 1 + SLOW_STEP_FACTOR


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch, shards: Path) -> Iterator[AzureServer]:
    """An Azure server that holds the shards below az://shards/camvid."""
    pytest.importorskip("adlfs", reason="adlfs is not installed: pip install adlfs")
    with azure_server(
        monkeypatch, {f"shards/camvid/{path.name}": path.read_bytes() for path in shards.iterdir()}
    ) as server:
        yield server


def test_azure_serves_every_sample(azure: AzureServer, shards: Path, settings: StorageConfig) -> None:
    storage = open_storage("az://shards/camvid/", settings)
    assert_same(storage, shards)
    assert_same(pickle.loads(pickle.dumps(storage)), shards)


def test_azure_errors_name_the_cause(
    azure: AzureServer, shards: Path, settings: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, extent = open_storage("az://shards/camvid", settings), extents(shards)[1]
    with raises_user_error("MSA-DATA-029", setting="data.path", mentions="az://shards/nothing/dataset.json"):
        open_storage("az://shards/nothing", settings).read_file(MANIFEST_NAME, 10**6)
    read(storage, extent)
    azure.blobs[f"shards/camvid/{extent.file}"] = bytes(10**5)
    assert storage.invalidate(extent)
    with raises_user_error("MSA-DATA-031", mentions=f"az://shards/camvid/{extent.file}"):
        read(storage, extent)
    azure.status = 403
    with raises_user_error("MSA-DATA-030", setting="data.path", mentions="az://shards/camvid/dataset.json"):
        open_storage("az://shards/camvid", settings).read_file(MANIFEST_NAME, 10**6)
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    with raises_user_error("MSA-DATA-035", setting="data.path", mentions="account"):
        open_storage("az://shards/camvid", settings).read_file(MANIFEST_NAME, 10**6)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("hf://datasets/owner/name/shards/", "/hub/datasets/owner/name/resolve/main/shards/train-000000.tar"),
        ("hf://owner/name@refs%2Fpr%2F1", "/hub/owner/name/resolve/refs%2Fpr%2F1/train-000000.tar"),
    ],
)
def test_the_hub_is_read_by_ranges_and_the_token_stays_with_it(
    server: FaultyServer, settings: StorageConfig, monkeypatch: pytest.MonkeyPatch, location: str, path: str
) -> None:
    """The Hub redirects large files to other hosts, which must not see the token."""
    with FaultyServer(b"") as hub:
        hub.always = Answer(
            status=302, headers={"Location": f"http://localhost:{server.server_port}/bytes", "ETag": ""}
        )
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}/hub/")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        storage = open_storage(location, settings)
        assert storage.location == location.rstrip("/")
        assert read(storage, WHOLE._replace(start=1000, stop=50_000)) == CONTENT[1000:50_000]
        assert hub.requests[0].path == path and hub.requests[0].headers["Authorization"] == "Bearer hf_secret"
        assert server.requests[0].path == "/bytes" and "Authorization" not in server.requests[0].headers
        assert server.requests[0].first == 1000


def test_the_hub_refuses_as_other_servers_do(
    server: FaultyServer, settings: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.location)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_stored\n")
    server.always = Answer(status=401)
    with raises_user_error("MSA-DATA-030", setting="data.path", mentions="hf://datasets/owner/name/dataset.json"):
        open_storage("hf://datasets/owner/name", settings).read_file(MANIFEST_NAME, 10**6)
    assert server.requests[0].headers["Authorization"] == "Bearer hf_stored"
    for wrong in ("hf://", "hf://datasets/owner", "hf://name", "hf://datasets/owner/name//x"):
        with raises_user_error("MSA-DATA-025", setting="data.path", mentions=wrong):
            open_storage(wrong, settings)


def test_a_library_that_is_missing_is_named(settings: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda name: None)
    for scheme, library in (("gs", "gcsfs"), ("s3", "s3fs"), ("az", "adlfs")):
        with pytest.raises(UserError, match=f"needs the package {library}, .* run: pip install {library}"):
            open_remote(f"{scheme}://bucket/x", settings)
