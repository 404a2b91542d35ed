"""Reads of shards from a server: our transports against obstore, speed and behavior under faults, in one run.

    python benchmarks/remote_reads.py [--json FILE]

Needs nginx, and `pip install obstore s3fs pytest`. Ranges of 8 MiB and whole shards of 64 MiB from nginx on this machine, as http://
and as s3:// without credentials; then faults of a scripted server. The result is docs/decisions/0021-obstore.md.
"""

import argparse
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

try:
    import obstore
    from obstore.store import HTTPStore, S3Store
except ModuleNotFoundError:
    obstore = None

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "tests")]

from harness import in_turns, print_table, write_json  # noqa: E402

from msanet.data.storage.http import HttpTransport  # noqa: E402
from msanet.data.storage.object_store import ObjectTransport  # noqa: E402
from msanet.data.storage.transfer import Transfer, TransientError, Transport, download_with_retries  # noqa: E402
from support.servers import Answer, FaultyServer, nginx  # noqa: E402

RANGE, SHARD, SHARDS = 8 * 2**20, 64 * 2**20, 4
DEADLINE = 20.0
Read = Callable[[str, int, int], Any]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    if obstore is None:
        sys.exit("obstore is not installed; pip install obstore s3fs pytest")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root" / "bucket"
        root.mkdir(parents=True)
        for number in range(SHARDS):
            (root / f"{number}.tar").write_bytes(random.randbytes(SHARD))
        for path in (Path(folder), root.parent, root):
            path.chmod(0o755)
        with nginx(root.parent, Path(folder) / "nginx") as (address, _):
            speeds = in_turns(subjects(address), args.rounds)
    print_table(
        ("read", "MB/s, median of rounds", "CPU seconds per GB"),
        [
            (name, *(sorted(part)[len(part) // 2] for part in zip(*found, strict=True)))
            for name, found in speeds.items()
        ],
    )
    faults = {name: {fault: behavior(make, fault) for fault in FAULTS} for name, make in FAULT_READERS.items()}
    print_table(("fault", *faults), [(fault, *(found[fault] for found in faults.values())) for fault in FAULTS])
    write_json(args.json, {"speeds": speeds, "faults": faults})
    return 0


def subjects(address: str) -> dict[str, Callable[[], Any]]:
    """Each reads all shards once and returns (MB/s, CPU seconds per GB)."""
    os.environ["AWS_ENDPOINT_URL"] = address
    readers = {
        "http, ours": ours(HttpTransport(f"{address}/bucket", 8)),
        "http, obstore": obstores(HTTPStore.from_url(f"{address}/bucket", client_options={"allow_http": True})),
        "s3, s3fs": ours(anonymous(ObjectTransport("s3://bucket"))),
        "s3, obstore": obstores(s3_store(address)),
    }
    kinds = {"ranges, 1 thread": (RANGE, 1), "ranges, 8 threads": (RANGE, 8), "shards, 1 thread": (SHARD, 1)}
    return {
        f"{name}, {kind}": lambda read=read, size=size, threads=threads: timed(read, size, threads)  # type: ignore[misc]
        for kind, (size, threads) in kinds.items()
        for name, read in readers.items()
    }


def anonymous(transport: ObjectTransport) -> ObjectTransport:
    """One that asks for no credentials."""
    import fsspec

    transport._files = fsspec.filesystem("s3", anon=True, skip_instance_cache=True, use_listings_cache=False)
    transport._process = os.getpid()
    return transport


def s3_store(address: str) -> Any:
    """The bucket, without credentials."""
    return S3Store(
        "bucket", endpoint=address, region="us-east-1", skip_signature=True, client_options={"allow_http": True}
    )


def ours(transport: Transport) -> Read:
    """Reads as `RemoteStorage` does, without the cache."""
    return lambda file, start, stop: download_with_retries(
        transport, Transfer(file, start, stop, time.monotonic() + DEADLINE), DEADLINE
    )


def obstores(store: Any) -> Read:
    """`get_range`, whose retries are obstore's own."""
    return lambda file, start, stop: obstore.get_range(store, file, start=start, end=stop)


def timed(read: Read, size: int, threads: int) -> tuple[float, float]:
    """(MB/s, CPU seconds of this process per GB) of reading all shards in pieces of `size`."""
    pieces = [(f"{number}.tar", start, start + size) for number in range(SHARDS) for start in range(0, SHARD, size)]
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        assert sum(len(data) for data in pool.map(lambda piece: read(*piece), pieces)) == SHARD * SHARDS
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return SHARD * SHARDS / 1e6 / seconds, cpu / (SHARD * SHARDS / 1e9)


FAULTS: dict[str, list[Answer]] = {
    "connection cut after 4 of 8 MiB": [Answer(cut=RANGE // 2)],
    "503 with Retry-After: 2, then the bytes": [Answer(503, {"Retry-After": "2"})],
    "cut after 4 of 8 MiB, then another version": [Answer(cut=RANGE // 2)],
    "another version between two reads": [],
    "404": [Answer(404)] * 100,
    "always 503": [Answer(503)] * 10_000,
}


def behavior(make: Callable[[str], Read], fault: str) -> str:
    """What came of reading 8 MiB: the bytes or the error, seconds, requests, and bytes that the server sent."""
    with FaultyServer(random.randbytes(RANGE)) as server:
        old = server.content
        read, begun = make(server.location.removesuffix("/data")), time.monotonic()
        if "two reads" in fault:
            read("data/x", 0, 1000)
            _replace(server)
        server.plan = list(FAULTS[fault])
        if "then another" in fault:
            threading.Thread(target=_replace_after_cut, args=(server,)).start()
        try:
            data = bytes(read("data/x", 0, RANGE))
            outcome = (
                "right"
                if data == old and data == server.content
                else "MIXED"
                if server.content[:9] != data[:9]
                else "the new version"
            )
        except Exception as error:
            outcome = f"{type(error).__name__}: {' '.join(str(error).split())[:70]}"
        sent = sum(request.sent for request in server.requests)
        return (
            f"{outcome}; {time.monotonic() - begun:.1f} s, {len(server.requests)} requests, {sent / 2**20:.1f} MiB sent"
        )


def _replace(server: FaultyServer) -> None:
    server.content, server.etag = random.randbytes(RANGE), '"second"'


def _replace_after_cut(server: FaultyServer) -> None:
    while not server.requests or server.requests[0].sent < RANGE // 2:
        time.sleep(0.001)
    _replace(server)


def _obstore(address: str) -> Read:
    options = {"allow_http": True, "read_timeout": timedelta(seconds=5)}
    retries = {"retry_timeout": timedelta(seconds=DEADLINE)}
    return obstores(HTTPStore.from_url(address, client_options=options, retry_config=retries))


class _StreamTransport:
    """What a transport on obstore would be: one attempt of a stream, If-Match, and our retries."""

    def __init__(self, address: str) -> None:
        self.location = address
        self._store = HTTPStore.from_url(address, client_options={"allow_http": True}, retry_config={"max_retries": 0})
        self._etags: dict[str, str] = {}

    def attempt(self, transfer: Transfer) -> None:
        options: Any = {"range": (transfer.position, transfer.stop)}
        if transfer.file in self._etags:
            options["if_match"] = self._etags[transfer.file]
        try:
            result = obstore.get(self._store, transfer.file, options=options)
            self._etags.setdefault(transfer.file, result.meta["e_tag"] or "")
            for piece in result.stream(min_chunk_size=2**18):
                transfer.data += memoryview(piece)
        except obstore.exceptions.GenericError as error:
            raise TransientError(str(error)[:100]) from None

    def recheck(self, file: str) -> None: ...


FAULT_READERS: dict[str, Callable[[str], Read]] = {
    "ours": lambda address: ours(HttpTransport(address, 8)),
    "obstore's get_range": _obstore,
    "obstore's stream, our retries": lambda address: ours(_StreamTransport(address)),
}

if __name__ == "__main__":
    raise SystemExit(main())
