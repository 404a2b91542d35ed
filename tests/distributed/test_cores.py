"""Threads of a rank: OMP_NUM_THREADS where a person has set it, else its share of what the machine and its cgroups give."""

import sys
from pathlib import Path

import pytest

from msanet.distributed import cores
from msanet.distributed.cores import available_cores, threads_of_rank
from msanet.distributed.device import prepare_device


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 4),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, 4),  # torchrun's own default
        ({"OMP_NUM_THREADS": "2", "TORCHELASTIC_RUN_ID": "none"}, 2),
        ({"OMP_NUM_THREADS": "6,3"}, 6),  # of nested regions
        ({"OMP_NUM_THREADS": ""}, 4),
        ({"OMP_NUM_THREADS": "many"}, 4),
        ({"OMP_NUM_THREADS": "0"}, 4),
    ],
)
def test_a_rank_takes_what_omp_num_threads_says_or_its_share(environment: dict[str, str], threads: int) -> None:
    assert threads_of_rank(environment, cores=8, ranks=2) == threads


def test_there_is_always_one_thread() -> None:
    assert threads_of_rank({}, cores=2, ranks=8) == 1


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/job/task\n", {"job/cpu.max": "250000 100000\n", "job/task/cpu.max": "max 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {}, 16),
        (
            "4:cpu,cpuacct:/pod\n",
            {"cpu,cpuacct/pod/cpu.cfs_quota_us": "400000", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("4:memory:/\n", {"memory/cpu.max": "100000 100000"}, 16),
    ],
)
def test_the_quota_of_a_container_counts(
    line: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: range(16))
    for name, text in {
        "proc/self/cgroup": line,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_cores(tmp_path) == expected


def test_a_rank_on_cpus_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.set_flush_denormal", lambda _: True)
    monkeypatch.setattr("torch.set_num_threads", taken.append)
    monkeypatch.setattr(sys.modules["msanet.distributed.device"], "available_cores", lambda: 8)
    monkeypatch.setenv("LOCAL_SIZE", "2")
    for chosen in ("3", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
        prepare_device()
    assert taken == [3, 4]
