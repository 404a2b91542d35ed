"""A pipeline in loader processes: how they start, what they hand over, and what is said when one is lost."""

import multiprocessing
from collections.abc import Iterator
from typing import Any

import torch
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from msanet import logs
from msanet.awake_clock import awake_clock
from msanet.data.open_files import out_of_files, require_open_files
from msanet.data.shared_memory import explain_full, is_bus_error, share, shared_memory_full
from msanet.errors import UserError
from msanet.processes import block_stop_signals, exit_with_parent, use_short_socket_paths

_SEMAPHORES_BYTES = 4096


class _CarryErrors(IterableDataset):
    """Yields a UserError instead of raising it: DataLoader would wrap a worker's exception in its traceback."""

    def __init__(self, pipeline: wds.DataPipeline) -> None:
        self.pipeline = pipeline

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from share(self.pipeline) if get_worker_info() else self.pipeline
        except UserError as error:
            yield error


def iterate(pipeline: wds.DataPipeline, workers: int, prefetch: int) -> Iterator[Any]:
    """What the pipeline yields, in loader processes or (0 workers) in this one. Raises UserError for what users can fix."""
    # The fork server imports what loader processes need: they start in 0.1 s and share memory. See docs/decisions/0011.
    multiprocessing.set_forkserver_preload(["__main__", "msanet.data.loader"])
    loader = DataLoader(
        _CarryErrors(pipeline),
        batch_size=None,  # the pipeline makes its own batches
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # torch's own would be advanced by each start, also by a resume
    )
    if workers:
        use_short_socket_paths()
        require_open_files(workers, prefetch)
    try:
        with block_stop_signals(), explain_full(_SEMAPHORES_BYTES):
            items = iter(loader)
    except OSError as error:
        raise out_of_files(error) or error from None
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            known = out_of_files(error)
            if known:
                raise known from error
            if not (workers and _is_lost_process(error)):
                raise
            if is_bus_error(error):
                raise shared_memory_full("a loader process was killed when it wrote there") from error
            raise UserError(
                "MSA-DATA-010",
                "a loader process was killed, often because the host ran out of memory (see dmesg); lower data.num_workers "
                "or data.prefetch_factor and run the same command again to resume from the last checkpoint",
                setting="data.num_workers",
            ) from error
        if isinstance(item, UserError):
            raise item
        yield item


def _is_lost_process(error: Exception) -> bool:
    """Whether a process died: DataLoader says so, or its connection broke. What a process raised begins with 'Caught'."""
    if isinstance(error, RuntimeError):
        return str(error).startswith(("DataLoader worker (pid", "Pin memory thread exited"))
    return isinstance(error, ConnectionError | EOFError) and not str(error).startswith("Caught ")


def _start_worker(_: int) -> None:
    logs.configure()
    awake_clock.tick_in_background()  # for downloads
    exit_with_parent()  # DataLoader's own watch looks at the fork server, which outlives a killed trainer


def worker() -> tuple[int, int]:
    """This loader process's number, and the number of them."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
