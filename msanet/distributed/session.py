"""The life of one rank: environment, process group, heartbeats, body, orderly end."""

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from msanet.distributed import parent_watchdog
from msanet.distributed.collectives import set_host_group
from msanet.distributed.device import prepare_device
from msanet.distributed.environment import rank, set_default_environment, world_size
from msanet.distributed.heartbeat import EXIT_FAULT, SLOW_STEP_FACTOR, HeartbeatMonitor, say
from msanet.distributed.progress import broadcast_failure, monitor, set_monitor
from msanet.distributed.rendezvous import RendezvousTimeout, open_store, rendezvous
from msanet.errors import EXIT_USER_ERROR, user_errors
from msanet.logs import configure_if_needed
from msanet.processes import ignore_broken_pipe
from msanet.secrets import without_secrets


@contextmanager
def session(timeout: float) -> Iterator[None]:
    """The life of one rank: environment, process group, pulse, body, orderly end. `timeout` (s) bounds every fault.

    A UserError inside ends the job with exit code 2 and its sentence, said by one rank; a fault with exit code 1 and a
    sentence on each host (see `msanet.distributed.heartbeat`). Does not return to the interpreter's own shutdown: a gloo thread races it
    and sometimes aborts the process, so the end is to wait for all, flush and `os._exit`.
    """
    set_default_environment()
    configure_if_needed()
    parent_watchdog.start_parent_watchdog()
    ignore_broken_pipe()
    code = 0
    try:
        with user_errors(should_print=_speaks_first):
            prepare_device()
            _init_process_group(timeout)
            yield
        _leave()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        _leave(code)
    except RendezvousTimeout as fault:
        code = EXIT_FAULT
        if fault.should_log:
            say(f"error: {fault}")
    except Exception as error:
        code = EXIT_FAULT
        _end_on(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _init_process_group(timeout: float) -> None:
    import deepspeed  # after the environment is set: it picks its accelerator when imported

    # Compiling it takes a minute, and training never uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # of DeepSpeed's calls
    store = open_store(rank(), world_size(), timeout)
    heartbeat = HeartbeatMonitor(store, rank(), rendezvous(store, rank(), world_size(), timeout), timeout)
    set_monitor(heartbeat)
    heartbeat.start()
    # The pulse ends every fault sooner, and says whose it is: a collective may wait for a rank whose step is known to be slow.
    limit = timedelta(seconds=SLOW_STEP_FACTOR * timeout)
    # The `timeout=` below does not reach the groups that ZeRO clones (they would wait 10 and 30 minutes).
    dist.distributed_c10d.default_pg_timeout = dist.distributed_c10d.default_pg_nccl_timeout = limit
    # NCCL's own watchdog would abort this process first, and rank 0's store with it: others would name the wrong rank.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), timeout=limit)
    deepspeed.init_distributed(dist_backend=backend, verbose=False)  # finds that group
    if backend == "nccl":
        set_host_group(dist.new_group(backend="gloo", timeout=limit))


def _leave(code: int = 0) -> None:
    """Bad input ends all ranks, whoever found it; with another code all come here alike."""
    heartbeat = monitor()
    if heartbeat and code == EXIT_USER_ERROR:
        heartbeat.broadcast_failure(heartbeat.sentence, code)
    elif heartbeat:
        heartbeat.barrier()
        heartbeat.leave()


def _end_on(error: Exception) -> None:
    """A fault of this rank, with its traceback; or of another, which shows here as a collective that failed."""
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # parent_watchdog send it soon, but who is gone is yet to be found out
    heartbeat = monitor()
    if heartbeat and world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
        heartbeat.check_liveness(error)
    print(without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)
    broadcast_failure(without_secrets(f"{type(error).__name__}: {error}"), EXIT_FAULT)


def _speaks_first(sentence: str) -> bool:
    """Whether this rank is the first to report this sentence: all ranks often find the same fault."""
    heartbeat = monitor()
    return heartbeat is None or heartbeat.is_first(sentence)
