"""One holder at a time; one that is gone is found out at once on the same machine, and by its heartbeat on another."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msanet import folder_lock
from msanet.folder_lock import FolderLock, Holder, wait_until_free
from support.errors import raises_user_error


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HEARTBEAT", 0.05), ("STALE", 1.0), ("_GRACE", 0.2)):
        monkeypatch.setattr(folder_lock, f"{name}_SECONDS", seconds)
    monkeypatch.setattr(folder_lock, "_POLL_SECONDS", 0.01)


@pytest.fixture
def gone() -> Iterator[int]:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        yield process.pid


def lock(folder: Path, lost: list[str] | None = None) -> FolderLock:
    return FolderLock(folder / "lock", "training", "run.dir", (lost if lost is not None else []).append)


def leave(folder: Path, age: float = 0.0, **changes: Any) -> Path:
    """A lock file that another process has left."""
    path = folder / "lock"
    path.touch()
    holder = Holder(**{"inode": path.stat().st_ino, "started": "1", **changes})
    path.write_text(holder.model_dump_json())
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_second_one_is_refused_and_the_first_is_not_touched(tmp_path: Path) -> None:
    first = lock(tmp_path)
    first.acquire()
    before = (tmp_path / "lock").read_bytes()
    with raises_user_error("MSA-FILE-401", "run.dir", str(os.getpid())):
        lock(tmp_path).acquire()
    assert (tmp_path / "lock").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["lock"]
    first.release()
    first.release()
    assert not list(tmp_path.iterdir())
    second = lock(tmp_path)
    second.acquire()
    second.release()


def test_a_holder_that_is_just_ending_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "_GRACE_SECONDS", 20)
    first, second = lock(tmp_path), lock(tmp_path)
    first.acquire()
    threading.Timer(0.3, first.release).start()
    second.acquire()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    second.release()
    assert not list(tmp_path.iterdir())


def test_a_dead_process_of_this_machine_is_followed_at_once(
    tmp_path: Path, gone: int, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path, pid=gone)
    began = time.monotonic()
    own = lock(tmp_path)
    own.acquire()
    assert time.monotonic() - began < 0.5
    assert f"process {gone} on" in capsys.readouterr().err
    own.release()


def test_another_process_with_the_id_of_a_dead_one_does_not_count(tmp_path: Path) -> None:
    leave(tmp_path, pid=os.getpid())  # started at another time
    own = lock(tmp_path)
    own.acquire()
    own.release()


@pytest.mark.parametrize(
    "elsewhere", [{"kernel": "other"}, {"namespace": "pid:[7]"}, {"inode": 1, "pid": 1, "started": None}]
)
def test_what_only_its_heartbeat_can_tell_is_watched(tmp_path: Path, elsewhere: dict[str, Any]) -> None:
    """Of another host, another container without the kernel's lock, and in a folder that was copied."""
    if "started" in elsewhere:
        elsewhere = {**elsewhere, "started": folder_lock._process_start(1)}
    path = leave(tmp_path, **elsewhere)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.05):
            os.utime(path)

    heart = threading.Thread(target=beat)
    heart.start()
    with raises_user_error("MSA-FILE-401", "run.dir"):
        lock(tmp_path).acquire()
    stop.set()
    heart.join()
    began = time.monotonic()
    own = lock(tmp_path)
    own.acquire()
    assert 0.3 < time.monotonic() - began < 5
    own.release()
    leave(tmp_path, age=60, **elsewhere)
    began = time.monotonic()
    own = lock(tmp_path)
    own.acquire()
    assert time.monotonic() - began < 0.5, "its heartbeat is old already"
    own.release()


def test_another_container_of_this_machine_is_found_out_by_the_kernels_lock(tmp_path: Path) -> None:
    path = leave(tmp_path, namespace="pid:[7]", has_kernel_lock=True)
    with path.open() as file:
        assert folder_lock._kernel_lock(file.fileno())
        with raises_user_error("MSA-FILE-401", "run.dir"):
            lock(tmp_path).acquire()
    began = time.monotonic()
    own = lock(tmp_path)
    own.acquire()
    assert time.monotonic() - began < 0.5
    own.release()


@pytest.mark.parametrize(
    ("before", "after", "follows"),
    [
        ({"elastic_job": "j"}, {"TORCHELASTIC_RUN_ID": "j"}, True),
        ({"elastic_job": "none"}, {"TORCHELASTIC_RUN_ID": "none"}, False),
        ({"slurm_job": "4711", "slurm_restart": "0"}, {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "1"}, True),
        ({"slurm_job": "4711", "slurm_restart": "0"}, {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "0"}, False),
        ({"slurm_job": "4711", "slurm_restart": "0"}, {"SLURM_JOB_ID": "4712", "SLURM_RESTART_COUNT": "1"}, False),
    ],
)
def test_the_next_start_of_a_job_follows_its_last_one_on_another_host(
    before: dict[str, Any], after: dict[str, str], follows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in after.items():
        monkeypatch.setenv(name, value)
    holder = Holder(kernel="other", host="other", **before)
    assert holder.is_followed_by(Holder()) == follows
    leave(tmp_path, kernel="other", host="other", **before)
    began = time.monotonic()
    own = lock(tmp_path)
    own.acquire()
    assert (time.monotonic() - began < 0.7) == follows, "two heartbeats instead of STALE_SECONDS"
    own.release()


def test_a_file_system_without_locks_or_with_a_damaged_file_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    (tmp_path / "lock").write_text("{")
    own = lock(tmp_path)
    own.acquire()
    with raises_user_error("MSA-FILE-401", "run.dir"):
        lock(tmp_path).acquire()
    own.release()


def test_a_full_disk_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_lock.os, "write", full)
    own = lock(tmp_path)
    own.acquire()
    own.release()
    assert not list(tmp_path.iterdir())


def test_one_that_stood_still_hears_that_another_has_the_lock(tmp_path: Path) -> None:
    lost: list[str] = []
    first = lock(tmp_path, lost)
    first.acquire()
    os.rename(tmp_path / "lock", tmp_path / "aside")
    path = leave(tmp_path, kernel="other")
    deadline = time.monotonic() + 10
    while not lost and time.monotonic() < deadline:
        time.sleep(0.01)
    first.release()
    assert lost and path.is_file(), "the other's is left alone"


def test_of_two_that_take_over_at_once_one_holds_it(tmp_path: Path, gone: int) -> None:
    leave(tmp_path, pid=gone)
    stale = folder_lock._read_lock(tmp_path / "lock")
    assert stale
    winner = lock(tmp_path)
    winner.acquire()
    assert not folder_lock._remove(stale, "f" * 32) and winner._is_own(winner._file or 0)
    winner.release()


def test_the_ranks_of_an_earlier_attempt_are_waited_for(tmp_path: Path, gone: int) -> None:
    own = lock(tmp_path)
    own.acquire()
    assert not wait_until_free(tmp_path / "lock", 0.1)
    own.release()
    assert wait_until_free(tmp_path / "lock", 0.1)
    leave(tmp_path, pid=gone)
    assert wait_until_free(tmp_path / "lock", 0.1)


def test_a_job_that_has_moved_waits_for_its_last_start_to_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rank 0 on a host that was cut off from the others still beats, and ends soon."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "j")
    path = leave(tmp_path, kernel="other", elastic_job="j")
    ends = time.monotonic() + 1

    def beat() -> None:
        while time.monotonic() < ends:
            os.utime(path)
            time.sleep(0.02)

    heart = threading.Thread(target=beat)
    heart.start()
    own = lock(tmp_path)
    own.acquire()
    assert time.monotonic() >= ends
    heart.join()
    own.release()


def test_a_second_start_of_the_same_job_on_this_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "j")
    first = lock(tmp_path)
    first.acquire()
    with raises_user_error("MSA-FILE-401"):
        lock(tmp_path).acquire()
    first.release()
