"""Which rank this process is, the process group's life, and who speaks.

A job is started by `deepspeed`, by torchrun, or as one plain process; all three end up here the same way.
"""

import logging
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from msanet import launchers
from msanet.errors import EXIT_USER_ERROR, UserError, user_errors
from msanet.processes import outlive_output
from msanet.pulse import EXIT_FAULT, PATIENCE, Pulse, say
from msanet.rendezvous import MissingRanks, meet, open_store
from msanet.secrets import without_secrets

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


def manual_seed(seed: int) -> None:
    """The same random numbers on every rank, such as those of initial weights."""
    torch.manual_seed(seed)


@contextmanager
def session(timeout: float) -> Iterator[None]:
    """The life of one rank: environment, process group, pulse, body, orderly end. `timeout` (s) bounds every fault.

    A UserError inside ends the job with exit code 2 and its sentence, said by one rank; a fault with exit code 1 and a
    sentence on each host (see `msanet.pulse`). Does not return to the interpreter's own shutdown: a gloo thread races it
    and sometimes aborts the process, so the end is to wait for all, flush and `os._exit`.
    """
    fill_in_environment()
    launchers.watch()
    outlive_output()
    code = 0
    try:
        with user_errors(may_speak=_speaks_first):
            _prepare_device()
            _init_process_group(timeout)
            yield
        _leave()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        _leave(code)
    except MissingRanks as fault:
        code = EXIT_FAULT
        if fault.is_to_be_said:
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
    global _host_group, _pulse
    store = open_store(rank(), world_size(), timeout)
    _pulse = Pulse(store, rank(), meet(store, rank(), world_size(), timeout), timeout)
    _pulse.start()
    # The pulse ends every fault sooner, and says whose it is: a collective may wait for a rank whose step is known to be slow.
    limit = timedelta(seconds=PATIENCE * timeout)
    # The `timeout=` below does not reach the groups that ZeRO clones (they would wait 10 and 30 minutes).
    dist.distributed_c10d.default_pg_timeout = dist.distributed_c10d.default_pg_nccl_timeout = limit
    # NCCL's own watchdog would abort this process first, and rank 0's store with it: others would name the wrong rank.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), timeout=limit)
    deepspeed.init_distributed(dist_backend=backend, verbose=False)  # finds that group
    if backend == "nccl":
        _host_group = dist.new_group(backend="gloo", timeout=limit)


_pulse: Pulse | None = None
_host_group: dist.ProcessGroup | None = None
"""Where the default group is that of GPUs: one beside it for what is on the hosts."""


def _leave(code: int = 0) -> None:
    """Bad input ends all ranks, whoever found it; with another code all come here alike."""
    if _pulse and code == EXIT_USER_ERROR:
        _pulse.tell(_pulse.sentence, code)
    elif _pulse:
        _pulse.wait_for_all()
        _pulse.leave()


def _end_on(error: Exception) -> None:
    """A fault of this rank, with its traceback; or of another, which shows here as a collective that failed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers send it soon, but who is gone is yet to be found out
    if _pulse and world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
        _pulse.roll_call(error)
    print(without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)
    tell(without_secrets(f"{type(error).__name__}: {error}"), EXIT_FAULT)


def tell(sentence: str, code: int) -> None:
    """Tell the other ranks why this one is about to end, which ends them too, with this exit code."""
    if _pulse:
        _pulse.tell(sentence, code)


def name(number: int) -> str:
    """A rank with its host, as sentences for people have it: `rank 3 on HOST`."""
    return _pulse.name(number) if _pulse else f"rank {number}"


def advance(doing: str, slow: bool = False) -> None:
    """Say what this rank begins now, a stage of what all ranks do alike. `slow`: it may take five times as long as usual.

    A rank that says nothing for 0.8 of the session's timeout ends the job, by its name.
    """
    if _pulse:
        _pulse.advance(doing, slow)


def progress(doing: str, slow: bool = False) -> None:
    """As `advance`, for what this rank does by itself, such as the images of its own share."""
    if _pulse:
        _pulse.progress(doing, slow)


def wait_for_all() -> None:
    """Wait until every rank is here, however long the others take, as long as they make progress."""
    if _pulse and world_size() > 1:
        _pulse.wait_for_all()


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


def gather_numbers(value: float) -> list[float]:
    """The values of all ranks in rank order, on every rank, over the hosts' network, so that no GPU has to be waited for."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values = torch.zeros(dist.get_world_size(), dtype=torch.float64)
    values[rank()] = value
    dist.all_reduce(values, group=_host_group)
    return values.tolist()


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
    """Run `function` on rank 0 alone and give its result to all ranks, which wait; its UserError ends them all."""
    outcome: Any = None
    if is_main():
        try:
            outcome = function()
        except (UserError, OSError) as error:
            outcome = error
    wait_for_all()
    outcome = broadcast_object(outcome)
    if isinstance(outcome, UserError | OSError):
        raise outcome
    return outcome


def _speaks_first(sentence: str) -> bool:
    """Whether this rank is the first to report this sentence: all ranks often find the same fault."""
    return _pulse is None or _pulse.is_first(sentence)


def fill_in_environment() -> None:
    """What a plain `python launcher/train.py` lacks of what launchers set."""
    if "MASTER_PORT" not in os.environ:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
        )


def _prepare_device() -> None:
    """Take this rank's GPU, or its share of the host's cores, with subnormal numbers as zeros.

    A CPU calculates tens of times slower with them, and the softmax of attention and Adam's moments are full of them. Threads
    take the setting over from the one that starts them.
    """
    if os.environ.get("DS_ACCELERATOR") == "cpu":  # which DeepSpeed obeys, so that all else must
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when a process asks for GPUs for the first time
    if torch.cuda.is_available():
        seen = torch.cuda.device_count()
        if local_rank() >= seen:
            raise UserError(
                f"rank {rank()} is number {local_rank()} of its host and sees {seen} GPUs, expected one for each rank; start "
                "fewer, or let every rank see all GPUs (SLURM: --gpus-per-node)"
            )
        torch.cuda.set_device(local_rank())
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_flush_denormal(True)
    ranks_here = int(os.environ.get("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", world_size())))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // max(1, ranks_here)))


def free_port() -> int:
    """A TCP port of this host that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
