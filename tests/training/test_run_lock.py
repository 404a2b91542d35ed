"""One training at a time in run.dir; one that was killed is in nobody's way."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from msanet.distributed.failure_detector import FailureReport
from msanet.distributed.process_exit import before_exit, exit_now
from msanet.run_layout import RunLayout
from msanet.training import run_lock
from support.commands import steps_logged, wait_until, words
from support.errors import error_codes
from support.ranks import start_ranks


def test_a_second_training_is_refused_and_a_killed_one_is_followed(shards: Path, tmp_path: Path) -> None:
    run = RunLayout(tmp_path / "run")
    (first,) = start_ranks(1, words(shards, run.dir, 100_000, "trainer.checkpoint_every_steps=2"))
    try:
        wait_until(lambda: steps_logged(run.dir) >= 4, [first])
        before = [path.read_bytes() for path in (run.config, run.command)]
        ranks = start_ranks(2, words(shards, run.dir, 4))
        outputs = [rank.communicate(timeout=100)[0] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [2, 2], outputs
        assert [code for output in outputs for code in error_codes(output)] == ["MSA-FILE-401"], outputs
        assert str(first.pid) in "".join(outputs) and first.poll() is None
        assert before == [path.read_bytes() for path in (run.config, run.command)]
    finally:
        first.kill()
        first.communicate()
    assert run.lock.is_file()
    steps = steps_logged(run.dir) + 2
    (next_one,) = start_ranks(1, words(shards, run.dir, steps))
    output = next_one.communicate(timeout=100)[0]
    assert next_one.returncode == 0 and f"process {first.pid} on" in output and "resuming from" in output, output
    assert not run.lock.exists() and steps_logged(run.dir) == steps


@pytest.mark.usefixtures("survives_exit")
def test_a_process_that_ends_at_once_gives_its_lock_back() -> None:
    called: list[str] = []
    with pytest.raises(SystemExit), before_exit(lambda: called.append("released")):
        exit_now(1)
    assert called == ["released"]
    with pytest.raises(SystemExit):
        exit_now(1)
    assert called == ["released"], "not after the block"


def test_one_whose_folder_was_taken_over_ends_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[FailureReport] = []
    monkeypatch.setattr(run_lock, "monitor", lambda: SimpleNamespace(fail=reports.append, describe="rank {}".format))
    run_lock._end("'RUN/training.lock' was taken over")
    assert [(report.code, report.exit_code) for report in reports] == [("MSA-TRAIN-401", 1)]
    assert "rank 0 ends: 'RUN/training.lock' was taken over" in reports[0].message
