"""The life of one rank: environment, process group, heartbeats, the work itself, orderly end."""

import itertools
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from msanet import logs
from msanet.distributed import process_exit
from msanet.distributed.collectives import set_host_group
from msanet.distributed.device import prepare_device
from msanet.distributed.environment import is_main, rank, set_default_environment, world_size
from msanet.distributed.failure_detector import FailureReport
from msanet.distributed.heartbeat import CHECKPOINT_THREAD, HeartbeatMonitor
from msanet.distributed.parent_watchdog import start_parent_watchdog, warn_of_unstoppable_launcher
from msanet.distributed.process_exit import EXIT_FAILURE, EXIT_PREEMPTED, JobFailed, Preempted, exit_now
from msanet.distributed.progress import monitor, set_monitor
from msanet.distributed.rendezvous import RendezvousTimeout, open_store, rendezvous
from msanet.distributed.timeouts import Timeouts
from msanet.errors import EXIT_USER_ERROR, UserError, user_errors
from msanet.processes import ignore_broken_pipe, stop_signals
from msanet.secrets import without_secrets

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = timedelta(days=20)
"""Its milliseconds have 31 bits, as poll() wants them."""
_sessions = itertools.count()
_INTERRUPT = signal.SIGUSR2
"""Sent by the heartbeat threads to the main thread of a session that was entered from Python."""


@contextmanager
def session(timeouts: Timeouts | None = None) -> Iterator[None]:
    """A rank's session for notebooks and scripts: it ends with what it returns or raises, and leaves the process as it was.

    Raises:
        UserError: Bad input, as everywhere.
        Preempted: The job was asked to stop and has saved.
        JobFailed: Another rank has failed, or this one has stalled.
        RendezvousTimeout: Ranks are missing at the start.
    """
    assert monitor() is None, "a session is within another"
    ensure_logging()
    with ExitStack() as cleanup:
        is_active = threading.Event()
        notify = cleanup.enter_context(_interruptible(is_active))
        added = set_default_environment()
        cleanup.callback(lambda: [os.environ.pop(name, None) for name in added])
        cleanup.callback(start_parent_watchdog(_fail_without_launcher))
        cleanup.callback(_destroy)
        try:
            prepare_device()
            _init_process_group(timeouts or Timeouts(), notify)
            is_active.set()
            yield
            is_active.clear()
            _leave()
        except BaseException as error:
            is_active.clear()
            outcome = _broadcast_error(error)
            if outcome is error:
                raise
            raise outcome from error


@contextmanager
def exiting_session(timeouts: Timeouts) -> Iterator[None]:
    """A rank's session for commands: at its end the process ends too, and nothing after the `with` block runs.

    A UserError inside ends the job with exit code 2 and its sentence, logged by one rank; a failure with exit code 1 and a
    sentence on each host; a preemption with 75. Why the end is `os._exit`: see docs/decisions/0014.
    """
    process_exit.declare_command()
    ensure_logging()
    set_default_environment()
    start_parent_watchdog()
    if is_main():
        warn_of_unstoppable_launcher()
    ignore_broken_pipe()
    code = 0
    try:
        with user_errors(should_print=_is_first_to_print):
            prepare_device()
            _init_process_group(timeouts, _exit_on_failure)
            yield
        _leave()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        _leave(code)
    except Preempted:
        code = EXIT_PREEMPTED
        _leave()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except RendezvousTimeout as error:
        code = EXIT_FAILURE
        if error.should_log:
            logger.error(str(error))
    except Exception as error:
        code = EXIT_FAILURE
        _exit_on_error(error)
    sys.stdout.flush()
    sys.stderr.flush()
    exit_now(code)


def run_and_exit(function: Callable[[], object], timeouts: Timeouts) -> NoReturn:
    """Run a command's work in an `exiting_session`."""
    with exiting_session(timeouts):
        function()
    raise AssertionError("an exiting session does not return")


def ensure_logging() -> None:
    """Log to the console where nothing is configured."""
    if not logging.getLogger("msanet").hasHandlers():
        logs.configure()


def _init_process_group(timeouts: Timeouts, on_failure: Callable[[FailureReport], None]) -> None:
    import deepspeed  # after the environment is set: it picks its accelerator when imported

    # Compiling it takes a minute, and training never uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # of DeepSpeed's calls
    store = open_store(rank(), world_size(), timeouts.rendezvous)
    number = next(_sessions)
    if world_size() > 1:
        store = dist.PrefixStore(f"session-{number}", store)  # it outlives a session
    hosts = rendezvous(store, rank(), world_size(), timeouts.rendezvous)
    heartbeat = HeartbeatMonitor(store, rank(), hosts, timeouts, on_failure)
    set_monitor(heartbeat)
    heartbeat.start()
    # A pause of all ranks may last longer than any limit, and heartbeats end a command whatever it waits for.
    limit = _LONGEST_PAUSE if process_exit.is_command() else timedelta(seconds=timeouts.collective)
    # The `timeout=` below does not reach the groups that ZeRO clones (they would wait 10 and 30 minutes).
    dist.distributed_c10d.default_pg_timeout = dist.distributed_c10d.default_pg_nccl_timeout = limit
    # NCCL's own watchdog would abort this process first, and rank 0's store with it: others would name the wrong rank.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    os.environ.setdefault("TORCH_NCCL_ENABLE_MONITORING", "0")  # it takes a pause of this process for a hang
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), timeout=limit)
    deepspeed.init_distributed(dist_backend=backend, verbose=False)  # finds that group
    if backend == "nccl":
        set_host_group(dist.new_group(backend="gloo", timeout=limit))


def _destroy() -> None:
    """Undo `_init_process_group`, as far as it got."""
    heartbeat = monitor()
    if heartbeat:
        heartbeat.stop()
    set_monitor(None)
    set_host_group(None)
    if dist.is_initialized():
        import deepspeed

        deepspeed.comm.destroy_process_group()  # DeepSpeed's references to groups too
        deepspeed.comm.comm.cdb = None
        if dist.is_initialized():
            dist.destroy_process_group()


def _leave(code: int = 0) -> None:
    """Bad input ends all ranks, whoever found it; with another code all come here alike."""
    heartbeat = monitor()
    if heartbeat and code == EXIT_USER_ERROR:
        heartbeat.broadcast_failure(heartbeat.last_error, code)
    elif heartbeat:
        heartbeat.leave()


def _broadcast_error(error: BaseException) -> BaseException:
    """What a session from Python raises after its body has raised `error`, which it broadcasts to the other ranks."""
    heartbeat = monitor()
    if isinstance(error, SystemExit) and error.code == EXIT_PREEMPTED:
        error = Preempted()
    if heartbeat is None or isinstance(error, JobFailed):
        return error
    if isinstance(error, Preempted):
        heartbeat.leave()
    elif _is_collective_error(error):
        return _to_exception(heartbeat.check_liveness(error))
    else:
        code = EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILURE
        heartbeat.broadcast_failure(without_secrets(f"{type(error).__name__}: {error}"), code)
    return error


def _to_exception(report: FailureReport) -> Exception:
    if report.exit_code == EXIT_PREEMPTED:
        return Preempted(str(report))
    return JobFailed(str(report), report.exit_code)


@contextmanager
def _interruptible(is_active: threading.Event) -> Iterator[Callable[[FailureReport], None]]:
    """Yields a function that raises a failure in the main thread, even if that waits. Signal handlers are restored at the end."""
    if threading.current_thread() is not threading.main_thread():  # no signals there: the next collective raises
        yield lambda report: None
        return
    main, pending = threading.main_thread(), list[FailureReport]()

    def interrupt(report: FailureReport) -> None:
        pending.append(report)
        signal.pthread_kill(main.ident or 0, _INTERRUPT)

    def handle(number: int, frame: object) -> None:
        if is_active.is_set() and pending:
            is_active.clear()
            raise _to_exception(pending[0])

    numbers = (*stop_signals(), _INTERRUPT)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(_INTERRUPT, handle)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _fail_without_launcher() -> None:
    heartbeat = monitor()
    if heartbeat:
        heartbeat.fail(FailureReport(f"{heartbeat.describe(rank())} lost its launcher", "MSA-DIST-012"))


def _exit_on_failure(report: FailureReport) -> None:
    """End this process, after the checkpoint that it is writing."""
    heartbeat = monitor()
    seconds = heartbeat.timeouts.heartbeat / 2 if heartbeat else 0.0
    for thread in threading.enumerate():
        if thread.name == CHECKPOINT_THREAD:  # idle threads of a pool never end
            thread.join(seconds)
    exit_now(report.exit_code)


def _exit_on_error(error: Exception) -> None:
    """A failure of this rank, with its traceback; or of another, which shows here as a collective that failed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers send it soon, but who is lost is yet to be found out
    heartbeat = monitor()
    if heartbeat and (_is_collective_error(error) or isinstance(error, JobFailed)):
        _exit_on_failure(heartbeat.failure or heartbeat.check_liveness(error))
    what = without_secrets(f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}")
    name = heartbeat.describe(rank()) if heartbeat else f"rank {rank()}"
    logger.error(f"{name} failed with an unexpected {what} [MSA-DIST-010]", exc_info=error)
    if heartbeat:
        heartbeat.broadcast_failure(what, EXIT_FAILURE, "MSA-DIST-010")


def _is_collective_error(error: BaseException) -> bool:
    return world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


def _is_first_to_print(sentence: str) -> bool:
    """Whether this rank is the first to report this sentence: all ranks often find the same error."""
    heartbeat = monitor()
    return heartbeat is None or heartbeat.is_first_to_log(sentence)
