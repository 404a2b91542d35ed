"""A call of the API leaves the process as it was, whatever it needs meanwhile."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from msanet.process_setup import quiet_torch
from msanet.telemetry import disable_telemetry

_LOGGERS = ("msanet", "sharding", "DeepSpeed")


@contextmanager
def api_call() -> Iterator[None]:
    """What every function of the API runs in. Signal handlers are restored by `msanet.distributed.session`.

    Raises:
        KeyboardInterrupt: Ctrl-C has ended a training, after its checkpoint was saved.
    """
    from msanet.distributed.process_exit import Preempted

    with ExitStack() as cleanup:
        for part in (restored_environment, _main_module, _logging, _torch, warnings.catch_warnings):
            cleanup.enter_context(part())
        try:
            yield
        except Preempted as error:
            if error.interrupted:
                raise KeyboardInterrupt(str(error)) from None
            raise


@contextmanager
def restored_environment() -> Iterator[None]:
    """Meanwhile variables are set that libraries read when they are imported, and whatever these set themselves."""
    before = dict(os.environ)
    quiet_torch()
    disable_telemetry()
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _main_module() -> Iterator[None]:
    """Processes that start meanwhile do not import the program's own script, which may have no `if __name__ == "__main__"`."""
    main: Any = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    main.__spec__ = None
    if "__file__" in hidden:
        del main.__file__
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


@contextmanager
def _logging() -> Iterator[None]:
    from msanet.distributed.session import ensure_logging

    before = [(logger, dict(vars(logger)), list(logger.handlers)) for logger in map(logging.getLogger, _LOGGERS)]
    ensure_logging()
    try:
        yield
    finally:
        for logger, state, handlers in before:
            logger.handlers[:] = handlers
            logger.propagate, logger.parent = state["propagate"], state["parent"]
            logger.setLevel(state["level"])


@contextmanager
def _torch() -> Iterator[None]:
    """Threads, random numbers, and how numbers are calculated."""
    import cv2
    import torch

    threads, cv2_threads, rng = torch.get_num_threads(), cv2.getNumThreads(), torch.get_rng_state()
    cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    flushes_denormal = float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0.0
    attributes: tuple[tuple[Any, str], ...] = (
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cudnn, "benchmark"),
        (sys, "excepthook"),  # torch.distributed prefixes tracebacks with the rank
    )
    values = [getattr(owner, name) for owner, name in attributes]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushes_denormal)
        torch.set_rng_state(rng)
        if cuda_rng:
            torch.cuda.set_rng_state_all(cuda_rng)
        cv2.setNumThreads(cv2_threads)
        for (owner, name), value in zip(attributes, values, strict=True):
            setattr(owner, name, value)
