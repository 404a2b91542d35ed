"""How much memory there is for training: of a GPU, or of a host whose ranks share it, within the limits of its cgroups."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from msanet import distributed


def smallest_free_memory() -> float:
    """Bytes that every rank can have: of the fullest GPU, or of a host's memory by the number of its ranks. A collective."""
    device = distributed.device()
    if device.type == "cuda":
        return min(distributed.gather_objects(torch.cuda.mem_get_info(device)[0]))
    found = distributed.gather_objects((socket.gethostname(), free_host_memory()))
    ranks = Counter(host for host, _ in found)
    return min(free / ranks[host] for host, free in found)


def free_host_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: what the kernel calls available, or less where a cgroup above it says so.

    Both versions of cgroups. A cgroup's clean file cache counts as free, as for Kubernetes (its working set is without).
    root: where /proc and /sys are.
    """
    free = psutil.virtual_memory().available
    for limit, used, statistics, inactive in _cgroups(root):
        with suppress(OSError, ValueError):  # no such file, or `max`
            cached = dict(line.split() for line in statistics.read_text().splitlines()).get(inactive, 0)
            free = min(free, int(limit.read_text()) - int(used.read_text()) + int(cached))
    return max(0, free)


def _cgroups(root: Path) -> Iterator[tuple[Path, Path, Path, str]]:
    """Files of the cgroups of this process and those above: limit, use, statistics, and the name of the clean cache there."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for _, controllers, place in (line.split(":", 2) for line in lines):
        if controllers == "":
            folder, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            folder = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = folder / place.lstrip("/")
        for one in (own, *own.parents):
            yield one / names[0], one / names[1], one / "memory.stat", names[2]
            if one == folder:
                break
