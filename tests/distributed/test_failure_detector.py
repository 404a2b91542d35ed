"""The failure detector on heartbeats and times that are made up: each kind of failure, on time and by name."""

from dataclasses import replace

import pytest

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
