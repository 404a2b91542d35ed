"""A rank finds out whether the parent_watchdog above it live, even where they were killed before it could look."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from conftest import REPOSITORY
from support.commands import adopting_orphans

RANK = """
import os, sys, time
while not os.path.exists("look"):
    time.sleep(0.01)
from msanet.distributed import parent_watchdog
parent_watchdog.start_parent_watchdog()
time.sleep(2.5)
open("lives", "w").close()
"""
SECONDS = 200.0
"""That a process may take to start, or to end, on a busy machine."""
LAUNCH = "import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}, 'rank'])"
RUNNER = "import subprocess, sys; subprocess.run([sys.executable, '-c', {launch!r}, 'deepspeed.launcher.launch'])"
"""As deepspeed's own: one starts the other, and dies alone."""


@pytest.fixture(params=["init", "this process"])
def adopter(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whose children orphans become, as those of systemd on a desktop; ended ones stay as zombies while it does not ask."""
    with adopting_orphans(request.param == "this process"):
        yield


def start(folder: Path, *command: str, **how: bool | int | None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "CROSS_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "PYTHONPATH": str(REPOSITORY)}
    environment.pop("MSANET_ATTEMPT", None)
    return subprocess.Popen(command, cwd=folder, env=environment, **how)  # type: ignore[call-overload]


def of(words: str, above: psutil.Process) -> psutil.Process:
    """The process below with such words at the end of its command."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for process in above.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.cmdline()[-1:] == [words]:
                    return process
        time.sleep(0.01)
    raise AssertionError(f"no {words} below {above}")


def lives_on(folder: Path, rank: psutil.Process) -> bool:
    """Whether the rank, which looks only now, is still there some seconds later: it imports torch first, which may take long."""
    (folder / "look").touch()
    deadline = time.monotonic() + SECONDS
    with suppress(psutil.NoSuchProcess):
        while rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.01)
    return (folder / "lives").exists()


RUNNER_WORDS = (sys.executable, "-c", RUNNER.format(launch=LAUNCH.format(rank=RANK)), "deepspeed.launcher.runner")


@pytest.mark.usefixtures("adopter")
def test_a_runner_that_a_shell_started_and_that_was_killed_is_missed(tmp_path: Path) -> None:
    runner = start(tmp_path, *RUNNER_WORDS, process_group=0)
    rank = of("rank", psutil.Process(runner.pid))
    runner.send_signal(signal.SIGKILL)  # and a zombie, as nobody asks
    assert not lives_on(tmp_path, rank)
    runner.wait()


def test_a_runner_that_a_script_started_and_that_was_killed_is_missed(tmp_path: Path) -> None:
    script = start(tmp_path, "bash", "-c", '"$@"; sleep 1000', "bash", *RUNNER_WORDS, start_new_session=True)
    runner = of("deepspeed.launcher.runner", psutil.Process(script.pid))
    rank = of("rank", runner)
    runner.kill()
    assert not lives_on(tmp_path, rank)
    os.killpg(script.pid, signal.SIGKILL)
    script.wait()


@pytest.mark.usefixtures("adopter")
def test_the_second_launcher_is_missed_too(tmp_path: Path) -> None:
    runner = start(tmp_path, *RUNNER_WORDS, process_group=0)
    rank = of("rank", psutil.Process(runner.pid))
    of("deepspeed.launcher.launch", psutil.Process(runner.pid)).kill()
    assert not lives_on(tmp_path, rank)
    runner.wait()


@pytest.mark.parametrize("session", [False, True], ids=["a shell's", "a session of its own"])
def test_a_rank_under_living_launchers_lives(tmp_path: Path, session: bool) -> None:
    runner = start(tmp_path, *RUNNER_WORDS, process_group=None if session else 0, start_new_session=session)
    assert lives_on(tmp_path, of("rank", psutil.Process(runner.pid)))
    runner.wait()


def test_on_another_host_no_deepspeed_is_above_the_second_launcher(tmp_path: Path) -> None:
    """There sshd starts it, in a session of its own."""
    command = (sys.executable, "-c", LAUNCH.format(rank=RANK), "deepspeed.launcher.launch")
    launch = start(tmp_path, *command, start_new_session=True)
    assert lives_on(tmp_path, of("rank", psutil.Process(launch.pid)))
    launch.wait()
