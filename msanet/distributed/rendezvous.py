"""How the ranks of a job find one another: a store on rank 0's host, in which each rank registers."""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from msanet.awake_clock import awake_clock

_T = TypeVar("_T")

_LONGEST_PAUSE = 0.5
"""Seconds between two checks of who has joined."""
_ANSWER_SECONDS = 3.0
"""Seconds that a store which is there has for its answers beyond the timeout."""
_PORT_GRACE_SECONDS = 10.0
"""For a port to become free, such as of a job that is just ending."""
_stores: dict[tuple[str, int], dist.Store] = {}
"""Of this process: a store serves all of its sessions, so that no rank can meet one that is about to end."""


class RendezvousTimeout(Exception):
    """Ranks are missing, as `message` says. should_log: whether this rank logs it for its host."""

    def __init__(self, code: str, message: str, should_log: bool = True) -> None:
        super().__init__(code, message, should_log)
        self.code, self.message, self.should_log = code, message, should_log

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


def open_store(rank: int, world_size: int, timeout: float) -> dist.Store:
    """The job's store: of rank 0 or torchrun's agent, on MASTER_ADDR:MASTER_PORT; for one rank in this process.

    Raises RendezvousTimeout if it cannot be reached within `timeout` seconds, or its port is in use: another start may help.
    """
    if world_size == 1:
        return dist.HashStore()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if (host, port) in _stores:
        return _stores[host, port]
    is_keeper = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def connect() -> dist.Store:
        if not is_keeper:
            _wait_for_port(host, port, timeout)
        return _tcp_store(host, port, world_size, is_keeper, timeout)

    try:
        store = call_within(timeout, connect)
    except NoAnswer:
        raise _silent_store(rank, timeout) from None
    except (dist.DistError, OSError) as error:
        if _is_port_in_use(error):
            raise RendezvousTimeout(
                "MSA-DIST-002",
                f"port {port} of this machine is in use, probably by another training; add --master_port with another number "
                "to the deepspeed command",
            ) from None
        raise RendezvousTimeout(
            "MSA-DIST-003",
            f"rank 0 at {host}, port {port}, could not be reached from {host_name()} within "
            f"run.rendezvous_timeout_seconds={timeout:g}; start all {world_size} ranks, and let the hosts reach that port",
            should_log=_is_first_besides_main(rank),
        ) from None
    _stores[host, port] = dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    return _stores[host, port]


def _tcp_store(host: str, port: int, world_size: int, is_keeper: bool, timeout: float) -> dist.Store:
    until = time.monotonic() + min(timeout, _PORT_GRACE_SECONDS)
    while True:
        try:
            return dist.TCPStore(host, port, world_size, is_keeper, timedelta(seconds=timeout), wait_for_workers=False)
        except (dist.DistError, OSError) as error:
            if not _is_port_in_use(error) or time.monotonic() > until:
                raise
        time.sleep(_LONGEST_PAUSE)


def _is_port_in_use(error: Exception) -> bool:
    return "EADDRINUSE" in str(error)


def rendezvous(store: dist.Store, rank: int, world_size: int, timeout: float) -> list[str]:
    """Wait for all ranks; the host of each. Raises RendezvousTimeout that names those who are missing after `timeout` seconds."""
    try:
        return call_within(timeout, lambda: _wait_for_all(store, rank, world_size, timeout))
    except NoAnswer:
        raise _silent_store(rank, timeout) from None
    except dist.DistError:  # rank 0 keeps the store; where it has given up, it has logged why
        raise RendezvousTimeout(
            "MSA-DIST-005",
            f"rank 0 ended before all {world_size} ranks had joined; see its log for the reason, or whether it was killed",
            should_log=_is_first_besides_main(rank),
        ) from None


class NoAnswer(Exception):
    """A store did not answer in time."""


def call_within(seconds: float, function: Callable[[], _T]) -> _T:
    """What `function` returns or raises; called in a thread, since what has no time limit of its own may wait forever.

    Raises NoAnswer some seconds after `seconds`, so that errors of the function's own come first.
    """
    answer: Future[_T] = Future()

    def call() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)

    with awake_clock.ticking(_LONGEST_PAUSE):
        end = awake_clock.now() + seconds + _ANSWER_SECONDS
        threading.Thread(target=call, daemon=True, name="store").start()
        while awake_clock.now() < end:
            wait([answer], _LONGEST_PAUSE)
            if answer.done():
                return answer.result()
    raise NoAnswer


def _silent_store(rank: int, timeout: float) -> RendezvousTimeout:
    address = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']}"
    return RendezvousTimeout(
        "MSA-DIST-552",
        f"{host_name()} got no answer from {address}, within run.rendezvous_timeout_seconds={timeout:g}, although something "
        "listens there: rank 0 has stopped, or the port belongs to another program; use another MASTER_PORT (--master_port)",
        should_log=rank == 0 or _is_first_besides_main(rank),
    )


def _wait_for_all(store: dist.Store, rank: int, world_size: int, timeout: float) -> list[str]:
    store.set(f"host/{rank}", host_name())
    keys = [f"host/{number}" for number in range(world_size)]
    store.add("joined", 1)
    until, pause = awake_clock.now() + timeout, 0.01
    while store.add("joined", 0) < world_size:
        if awake_clock.now() > until:
            store.set("timed_out", "")  # the others, who may have begun later, end with this one
        if store.check(["timed_out"]):
            missing = [number for number, key in enumerate(keys) if not store.check([key])]
            should_log = store.add(f"missing/{host_name()}", 1) == 1
            if rank == 0:
                time.sleep(3 * _LONGEST_PAUSE)  # it keeps the store, which the others have yet to read
            raise RendezvousTimeout(
                "MSA-DIST-004",
                f"rank {list_ranks(missing)} did not join within run.rendezvous_timeout_seconds={timeout:g}: expected "
                f"{world_size} ranks, found {world_size - len(missing)}; check the hosts that should have started them",
                should_log,
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return [value.decode() for value in store.multi_get(keys)]


def _wait_for_port(host: str, port: int, timeout: float) -> None:
    """Wait until something listens there: PyTorch's own wait takes up to two and a half times its timeout."""
    until = awake_clock.now() + timeout
    while True:
        try:
            socket.create_connection((host, port), max(0.1, until - awake_clock.now())).close()
            return
        except OSError:
            if awake_clock.now() > until:
                raise
        time.sleep(0.1)


def _is_first_besides_main(rank: int) -> bool:
    """Whether this is the first rank of its host that is not rank 0."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    return local_rank == (1 if rank == local_rank else 0)


def leave(store: dist.Store, rank: int, world_size: int, seconds: float) -> None:
    """Nothing more to read: rank 0, whose process keeps the store, waits for the others to leave too."""
    left = store.add("left", 1)
    until = time.monotonic() + seconds
    while rank == 0 and left < world_size and time.monotonic() < until:
        time.sleep(0.005)
        left = store.add("left", 0)


def new_connection(store: dist.Store) -> dist.Store:
    """To the same store, for another thread: an operation that waits blocks the others of its connection."""
    return store.clone()  # type: ignore[attr-defined]  # torch's stubs lack it


def host_name() -> str:
    """This host as the job's other hosts know it: name and, in a job of several, the address it speaks from."""
    name = socket.gethostname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((os.environ["MASTER_ADDR"], 9))  # sends nothing; asks for the route
            address = probe.getsockname()[0]
        except (KeyError, OSError):
            return name
    return name if address.startswith("127.") else f"{name}[{address}]"


def list_ranks(ranks: Sequence[int]) -> str:
    """`1, 3`, or `0, 1, 2, 3, 4, 5, 6, 7 and 5 more`."""
    return ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
