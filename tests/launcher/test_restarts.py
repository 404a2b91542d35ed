"""run.max_restarts: a job that has failed restarts by itself, and is the same run."""

import re
import signal
import subprocess
from functools import partial
from pathlib import Path

import psutil
import torch

from msanet.distributed.preemption import EXIT_PREEMPTED
from support.commands import launch, steps_logged, wait_until, words
from support.ranks import start_ranks
from support.small_runs import newest


def ranks_of(job: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The processes that train, below the launcher's own children, which supervise them."""
    family = psutil.Process(job.pid).children(recursive=True)
    of_rank = {process: process.environ() for process in family if "MSANET_ATTEMPT" in process.environ()}
    return {int(of_rank[p]["RANK"]): p for p in of_rank if p.parent() not in of_rank and "train.py" in str(p.cmdline())}


def _has_trained(run: Path, steps: int) -> bool:
    return steps_logged(run) >= steps


def _has_logged(log: Path, line: str) -> bool:
    return line in log.read_text()


def test_a_job_starts_again_after_kills_and_is_the_same_run(shards: Path, tmp_path: Path) -> None:
    """kill -9 of rank 1, then of rank 0; the weights at the end are those of a run that nobody killed, bit for bit."""
    log, run = tmp_path / "log", tmp_path / "run"
    more = [
        "trainer.checkpoint_every_steps=5",
        "run.heartbeat_timeout_seconds=30",
        "run.stall_timeout_seconds=48",
        "storage.download_timeout_seconds=20",
    ]
    job = launch(log, words(shards, run, 70, *more, "run.max_restarts=2", "run.resume=never"))
    for number, victim in enumerate((1, 0), start=1):
        wait_until(partial(_has_trained, run, 10 * number + 2), [job])
        ranks_of(job)[victim].kill()
        wait_until(partial(_has_logged, log, f"restart {number} of run.max_restarts=2"), [job])
    assert job.wait(timeout=200) == 0, log.read_text()
    for victim in (0, 1):
        # The second where the kill met a save, in which rank 0 waits at no collective that could fail.
        assert re.search(rf"error: .*rank {victim} \(host .* \[MSA-DIST-00[68]\]", log.read_text()), log.read_text()
    assert "Traceback" not in log.read_text()
    for rank in start_ranks(2, words(shards, tmp_path / "whole", 70, *more)):
        assert rank.wait(timeout=200) == 0
    killed, whole = newest(run / "checkpoints"), newest(tmp_path / "whole" / "checkpoints")
    assert killed.state == whole.state
    assert all(torch.equal(tensor, killed.weights[name]) for name, tensor in whole.weights.items())


def test_a_preempted_run_is_not_restarted(shards: Path, tmp_path: Path) -> None:
    (supervisor,) = start_ranks(1, words(shards, tmp_path / "run", 100_000, "run.max_restarts=3"))
    wait_until(lambda: steps_logged(tmp_path / "run") >= 3, [supervisor])
    supervisor.send_signal(signal.SIGUSR1)
    output = supervisor.communicate(timeout=100)[0]
    assert supervisor.returncode == EXIT_PREEMPTED, output
    assert newest(tmp_path / "run" / "checkpoints").state.step == steps_logged(tmp_path / "run") >= 3


def test_a_supervisor_that_is_killed_leaves_no_rank(shards: Path, tmp_path: Path) -> None:
    (supervisor,) = start_ranks(1, words(shards, tmp_path / "run", 100_000, "run.max_restarts=3"))
    wait_until(lambda: steps_logged(tmp_path / "run") >= 3, [supervisor])
    family = psutil.Process(supervisor.pid).children(recursive=True)
    assert family
    supervisor.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    assert newest(tmp_path / "run" / "checkpoints").state.step >= 3  # it saved


def test_a_user_error_is_not_a_failure(shards: Path, tmp_path: Path) -> None:
    """One sentence, exit code 2, and no second try."""
    (supervisor,) = start_ranks(1, words(shards / "nothing", tmp_path / "run", 10, "run.max_restarts=3"))
    output = supervisor.communicate(timeout=100)[0]
    assert supervisor.returncode == 2 and output.count("error: ") == 1 and "restart" not in output, output
