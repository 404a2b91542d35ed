"""How many CPU cores this process may use, and how many threads a rank gets of them."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path


def available_cores(root: Path = Path("/")) -> int:
    """Cores by affinity, or fewer where the quota of a cgroup (both versions) says so, as in a container with `--cpus 2`.

    Args:
        root: Where /proc and /sys are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(root))]))


def threads_of_rank(environment: Mapping[str, str], cores: int, ranks: int) -> int:
    """Threads of a rank: OMP_NUM_THREADS where a person has set it, else its share of the host's cores.

    torchrun sets OMP_NUM_THREADS=1 where nobody has, which would leave all but one core of each rank idle: that 1 does not
    count. DeepSpeed's --bind_cores_to_rank sets it too, to the cores it has bound.
    """
    chosen = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    by_torchrun = chosen == "1" and "TORCHELASTIC_RUN_ID" in environment
    if chosen.isascii() and chosen.isdecimal() and int(chosen) and not by_torchrun:
        return int(chosen)
    return max(1, cores // max(1, ranks))


def _quotas(root: Path) -> Iterator[float]:
    """Cores by the quota of each cgroup that this process is in; a cgroup without one has none here."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for _, controllers, place in (line.split(":", 2) for line in lines):
        is_v2 = controllers == ""
        if not is_v2 and "cpu" not in controllers.split(","):
            continue
        names = ("",) if is_v2 else ("cpu", "cpu,cpuacct")
        for folder in (root / "sys/fs/cgroup" / name for name in names):
            own = folder / place.lstrip("/")
            for one in [own, *own.parents][: len(own.relative_to(folder).parts) + 1]:
                with suppress(OSError, ValueError):  # no such file, or `max`
                    if is_v2:
                        quota, period = (one / "cpu.max").read_text().split()
                    else:
                        quota, period = ((one / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
                    if int(quota) > 0 and int(period) > 0:
                        yield int(quota) / int(period)
