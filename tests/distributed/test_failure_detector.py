"""The failure detector on heartbeats and times that are made up: each kind of failure, on time and by name."""

from contextlib import ExitStack
from dataclasses import replace

import pytest

from msanet.awake_clock import AwakeClock
from msanet.distributed.failure_detector import FailureDetector, FailureReport, Heartbeat
from msanet.distributed.timeouts import Timeouts

HOSTS = ["a", "a", "b"]
TIMEOUTS = Timeouts(heartbeat=60, stall=96, rendezvous=120)


class Job:
    """Three ranks with a heartbeat every second, read by a detector that was made at second 1000."""

    def __init__(self) -> None:
        self.now, self.detector = 1000.0, FailureDetector(HOSTS, TIMEOUTS, 1000.0)
        self.heartbeats = [Heartbeat(slow=False)] * 3

    def run(self, seconds: int, *silent: int) -> FailureReport | None:
        for _ in range(seconds):
            self.now += 1
            for rank in {0, 1, 2} - {*silent}:
                beat = self.heartbeats[rank]
                self.heartbeats[rank] = replace(beat, sequence=beat.sequence + 1)
            report = self.detector.update(self.heartbeats, self.now)
            if report:
                return report
        return None

    def set(self, rank: int, **fields: object) -> None:
        self.heartbeats[rank] = replace(self.heartbeats[rank], **fields)  # type: ignore[arg-type]


def test_healthy_ranks_are_not_reported() -> None:
    assert Job().run(1000) is None


@pytest.mark.parametrize("silent", [(2,), (1, 2)])
def test_no_heartbeat(silent: tuple[int, ...]) -> None:
    job = Job()
    assert job.run(5) is None and job.run(60, *silent) is None
    report = job.run(1, *silent)
    assert report and report.code == "MSA-DIST-006" and report.lost_ranks == silent and report.exit_code == 1
    assert "rank 2 (host b)" in str(report) and "61 s" in str(report)


def test_a_pause_shorter_than_the_timeout_is_forgotten() -> None:
    job = Job()
    assert job.run(59, 2) is None and job.run(1) is None and job.run(59, 2) is None


@pytest.mark.parametrize(("slow", "limit"), [(False, 96.0), (True, 480.0)])
def test_stall(slow: bool, limit: float) -> None:
    job = Job()
    job.set(1, idle_seconds=limit, slow=slow, activity="waiting for the data of step 5", stage=9)
    assert job.run(1) is None
    job.set(1, idle_seconds=limit + 1)
    report = job.run(1)
    assert report and report.code == "MSA-DIST-007" and report.lost_ranks == ()
    assert "rank 1 (host a)" in str(report) and "while waiting for the data of step 5" in str(report)


def test_the_rank_with_the_fewest_stages_is_the_one_that_stalled() -> None:
    """The others wait for it in a collective, and are idle too."""
    job = Job()
    for rank, stage in enumerate((8, 7, 8)):
        job.set(rank, idle_seconds=100.0, stage=stage)
    report = job.run(1)
    assert report and "rank 1 (host a) made" in report.message and "rank 0" not in report.message


def test_ranks_that_wait_for_others_do_not_stall() -> None:
    job = Job()
    for rank in (0, 2):
        job.set(rank, idle_seconds=None)
    job.set(1, idle_seconds=90.0)
    assert job.run(100) is None


def test_failed_collective_with_a_lost_rank() -> None:
    job = Job()
    assert job.run(10) is None
    job.set(0, error="Connection reset by peer")
    assert job.run(5, 2) is None and job.detector.is_checking_liveness  # 2.5 heartbeats of 2 s
    report = job.run(1, 2)
    assert (
        report and report.code == "MSA-DIST-008" and report.lost_ranks == (2,) and "rank 2 (host b) is" in str(report)
    )


def test_failed_collective_of_ranks_that_are_all_alive() -> None:
    job = Job()
    job.set(1, error="Connection reset by peer")
    report = job.run(10)
    assert report and report.code == "MSA-DIST-009" and report.lost_ranks == ()
    assert "rank 1 (host a)" in str(report) and "Connection reset by peer" in str(report)


class PausedJob:
    """Three ranks in lockstep, each with a clock of its own that notices when the rank is stopped; rank 0 has the detector.

    pauses: rank -> (second at which it is stopped, seconds for which it is).
    """

    def __init__(self, timeouts: Timeouts, pauses: dict[int, tuple[float, float]]) -> None:
        self.seconds, self.pauses, self.notes = 1000.0, pauses, list[str]()
        self.clocks = [AwakeClock(lambda: self.seconds) for _ in HOSTS]
        self.detector = FailureDetector(HOSTS, timeouts, self.clocks[0].now())
        self.progress = [clock.now() for clock in self.clocks]
        self.heartbeats = [Heartbeat(slow=False)] * len(HOSTS)

    def is_stopped(self, rank: int) -> bool:
        begin, length = self.pauses.get(rank, (0.0, 0.0))
        return begin <= self.seconds - 1000 < begin + length

    def run(self, seconds: int) -> FailureReport | None:
        with ExitStack() as ticking:
            for clock in self.clocks:
                ticking.enter_context(clock.ticking(2.0))
            for _ in range(seconds):
                self.seconds += 1
                running = [rank for rank in range(len(HOSTS)) if not self.is_stopped(rank)]
                for rank in running:
                    self.send_heartbeat(rank)
                if 0 in running and (report := self.detector.update(self.heartbeats, self.clocks[0].now())):
                    return report
                if len(running) == len(HOSTS):  # the collective for which they waited ends after their heartbeats
                    for rank in running:
                        self.progress[rank] = self.clocks[rank].now()
                self.notes += [note for note in [self.detector.new_pauses()] if note and 0 in running]
        return None

    def send_heartbeat(self, rank: int) -> None:
        now = self.clocks[rank].now()
        self.heartbeats[rank] = replace(
            self.heartbeats[rank],
            sequence=self.heartbeats[rank].sequence + 1,
            idle_seconds=now - self.progress[rank],
            paused_seconds=self.clocks[rank].paused_seconds,
        )


@pytest.mark.parametrize("length", [1, 5, 30, 61, 100, 3600])
@pytest.mark.parametrize("late", [0, 1, 9, 40])
@pytest.mark.parametrize("last", [0, 1])
def test_a_pause_of_all_ranks_ends_nothing_however_long_it_is(length: int, late: int, last: int) -> None:
    """They stop and wake up one after another, as on several hosts; the last one `late` seconds after the others."""
    pauses = {rank: (10.0 + (late if rank == last else 0), float(length)) for rank in range(3)}
    job = PausedJob(TIMEOUTS, pauses)
    assert job.run(200 + length + late) is None
    if late <= 1:
        assert len(job.notes) == (length > 20), job.notes
        assert all("rank 0 (host a), rank 1 (host a), rank 2 (host b) did not run for" in note for note in job.notes)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("length", [5, 30, 55])
@pytest.mark.parametrize("stall", [20.0, 96.0])
def test_the_others_wait_for_a_rank_that_is_stopped_for_less_than_the_timeout(
    rank: int, length: int, stall: float
) -> None:
    """Also where they make no progress meanwhile for longer than run.stall_timeout_seconds."""
    job = PausedJob(replace(TIMEOUTS, stall=stall), {rank: (10.0, float(length))})
    assert job.run(200) is None


def test_a_rank_that_is_stopped_for_longer_than_the_timeout_is_lost() -> None:
    report = PausedJob(TIMEOUTS, {2: (10.0, 80.0)}).run(200)
    assert report and report.code == "MSA-DIST-006" and report.lost_ranks == (2,)


def test_a_stall_after_a_pause_is_found() -> None:
    """Of rank 1, from second 100 on: it sends heartbeats, but makes no progress."""
    job = PausedJob(TIMEOUTS, {2: (10.0, 40.0)})
    assert job.run(100) is None
    seconds, report = 0, None
    while report is None and seconds < 120:
        seconds += 1
        job.seconds += 1
        for rank in range(3):
            job.send_heartbeat(rank)
        report = job.detector.update(job.heartbeats, job.clocks[0].now())
    assert report and report.code == "MSA-DIST-007" and 96 <= seconds <= 99
