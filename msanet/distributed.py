"""Which rank this process is, the process group's life, and who speaks.

A job is started by `deepspeed`, by torchrun, or as one plain process; all three end up here the same way.
"""

import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist

from msanet.errors import UserError, user_errors

_T = TypeVar("_T")


def rank() -> int:
    """This process's number in the job, 0-based; readable before `session` too."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of ranks of the job."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """This process's number on its host; which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Rank 0 speaks, logs and writes; the others are silent."""
    return rank() == 0


def device() -> torch.device:
    """This rank's accelerator, or the CPU."""
    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def session(timeout: float) -> Iterator[None]:
    """The life of one rank: environment, process group, body, orderly end. `timeout` (s) bounds every collective.

    A UserError inside ends the job with exit code 2 and its sentence, said by one rank. Does not return to the
    interpreter's own shutdown: a gloo thread races it and sometimes aborts the process, so the end is barrier, flush and
    `os._exit`. Other exceptions pass through with their traceback.
    """
    _prepare_environment()
    _end_with_parent()
    code = 0
    try:
        with user_errors(may_speak=_speaks_first):
            _init_process_group(timedelta(seconds=timeout))
            yield
        barrier()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _init_process_group(timeout: timedelta) -> None:
    import deepspeed  # after the environment is set: it picks its accelerator when imported

    # Compiling it takes a minute, and training never uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # of DeepSpeed's calls
    # The `timeout=` of init_distributed does not reach the groups that ZeRO clones (they would wait 30 minutes).
    dist.distributed_c10d.default_pg_timeout = timeout
    global _host_group
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    try:
        deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"port {os.environ['MASTER_PORT']} of this machine is in use, probably by another training, expected a free "
            f"one; add --master_port with another number to the deepspeed command"
        ) from None
    if backend == "nccl":
        _host_group = dist.new_group(backend="gloo", timeout=timeout)


_host_group: dist.ProcessGroup | None = None
"""Where the default group is that of GPUs: one beside it for what is on the hosts."""


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, in place; the tensor itself on one rank."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_reduce_max(value: int) -> int:
    """The largest of the ranks' values, agreed on over the hosts' network, so that no GPU has to be waited for."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_host_group)
    return int(largest)


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks in rank order, on every rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_main(function: Callable[[], _T]) -> _T:
    """Run `function` on rank 0 alone and give its result to all ranks; its UserError ends them all."""
    outcome: Any = None
    if is_main():
        try:
            outcome = function()
        except (UserError, OSError) as error:
            outcome = error
    outcome = broadcast_object(outcome)
    if isinstance(outcome, UserError | OSError):
        raise outcome
    return outcome


def _speaks_first(sentence: str) -> bool:
    """Whether this rank is the first to report this sentence: all ranks often find the same fault."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return True
    try:
        return dist.distributed_c10d._get_default_store().add(f"error:{sentence}", 1) == 1
    except (RuntimeError, dist.DistError):  # rank 0, which keeps the store, has spoken and left
        return False


def _prepare_environment() -> None:
    """Fill in what a plain `python launcher/train.py` lacks, and share a host's cores among its ranks."""
    if "MASTER_PORT" not in os.environ:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port())
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    ranks_here = int(os.environ.get("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", world_size())))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // max(1, ranks_here)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def when_launcher_is_lost(action: Callable[[], None] | None) -> None:
    """What this rank does when the launcher that started it is gone; None: it ends, as it does unless told otherwise."""
    global _on_lost_launcher
    _on_lost_launcher = action


_on_lost_launcher: Callable[[], None] | None = None


def _end_with_parent() -> None:
    """End this process when its launcher is gone: a killed `deepspeed` would leave its ranks running.

    `deepspeed` starts `deepspeed.launcher.launch`, which starts the ranks and outlives it, so both are watched.
    """
    if "RANK" not in os.environ or world_size() == 1:
        return
    parent = os.getppid()
    launcher = psutil.Process(parent)
    above = launcher.ppid() if any("deepspeed.launcher.launch" in word for word in launcher.cmdline()) else None

    def is_lost() -> bool:
        return os.getppid() != parent or (above is not None and launcher.ppid() != above)

    def watch() -> None:
        while not is_lost():
            time.sleep(1.0)
        if _on_lost_launcher:
            _on_lost_launcher()
            return
        print(f"error: rank {rank()} lost its launcher and ends", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
