"""The clock that stands still while a process is stopped, on times that are made up and on a real pause."""

import signal
import subprocess
import sys
import time

import pytest

from conftest import REPOSITORY
from msanet.awake_clock import AwakeClock
from msanet.data.storage.transfer import Transfer, TransientError, download_with_retries


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize("pause", [0.0, 1.9, 2.1, 7.0, 3600.0])
def test_a_pause_does_not_count(pause: float) -> None:
    machine = FakeTime()
    clock = AwakeClock(machine)
    with clock.ticking(1.0):
        for second in range(20):
            machine.seconds += 1 + (pause if second == 10 else 0)
            clock.now()
    assert 1020 <= clock.now() <= 1022
    assert clock.now() - 1000 + clock.paused_seconds == pytest.approx(20 + pause)
    assert (clock.last_pause is not None) == (pause > 7)


def test_without_a_thread_that_reads_it_all_seconds_count() -> None:
    """A download may well take 80 seconds in which nothing else runs."""
    machine = FakeTime()
    clock = AwakeClock(machine)
    with clock.ticking(1.0):
        machine.seconds += 1
    machine.seconds += 500
    assert clock.now() == 1501 and clock.paused_seconds == 0


TICK = """
import sys, time
from msanet.awake_clock import awake_clock
awake_clock.tick_in_background(0.1)
before = awake_clock.now(), time.monotonic()
print("ready", flush=True)
sys.stdin.readline()
print(awake_clock.now() - before[0], time.monotonic() - before[1])
"""


def test_a_stopped_process_notices_its_pause() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", TICK], cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        awake, all_seconds = map(float, process.communicate("\n")[0].split())
    assert all_seconds >= 3 and awake < all_seconds - 2


class PausedTransport:
    """The process is stopped in the first attempt, whose connection is closed meanwhile."""

    location = "https://server"

    def __init__(self, machine: FakeTime, clock: AwakeClock) -> None:
        self.machine, self.clock, self.attempts = machine, clock, 0

    def attempt(self, transfer: Transfer) -> None:
        self.attempts += 1
        if self.attempts == 1:
            self.machine.seconds += 3600
            raise TransientError("the connection was reset")
        transfer.data += b"seven"

    def recheck(self, file: str) -> None:
        raise NotImplementedError


def test_a_download_continues_after_a_pause_that_is_longer_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeTime()
    clock = AwakeClock(machine)
    monkeypatch.setattr("msanet.data.storage.transfer.awake_clock", clock)
    transport = PausedTransport(machine, clock)
    with clock.ticking(1.0):
        data = download_with_retries(transport, Transfer("a.tar", 0, 5, deadline=clock.now() + 80), 80)
    assert data == b"seven" and transport.attempts == 2
