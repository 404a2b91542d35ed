"""Which of a run's processes survive signals and broken pipes."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from conftest import REPOSITORY
from msanet.distributed.preemption import EXIT_PREEMPTED
from support.commands import steps_logged, wait_until, words
from support.ranks import start_ranks


def test_loader_processes_survive_a_stop_signal(shards: Path, tmp_path: Path) -> None:
    """Launchers, terminals and SLURM send it to all processes of a job, and the rank needs its loaders until it has saved."""
    (rank,) = start_ranks(1, words(shards, tmp_path / "run", 100_000))
    wait_until(lambda: steps_logged(tmp_path / "run") >= 3, [rank])
    helpers = psutil.Process(rank.pid).children(recursive=True)
    assert len(helpers) >= 2  # the fork server, a loader process
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        for helper in helpers:
            helper.send_signal(number)
    before = steps_logged(tmp_path / "run")
    wait_until(lambda: steps_logged(tmp_path / "run") >= before + 20, [rank])
    rank.send_signal(signal.SIGTERM)
    output = rank.communicate(timeout=100)[0]
    assert rank.returncode == EXIT_PREEMPTED and "KeyError" not in output, output  # the resource tracker's
    assert psutil.wait_procs(helpers, timeout=60)[1] == []


def test_a_rank_survives_a_broken_pipe() -> None:
    code = (
        "import sys\nfrom msanet.processes import ignore_broken_pipe\nignore_broken_pipe()\nsys.stdin.readline()\n"
        "for _ in range(100):\n    print('x' * 10_000)\n    print('y' * 10_000, file=sys.stderr)"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stderr.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_output_to_an_open_pipe_arrives_at_once() -> None:
    code = "import time\nfrom msanet.processes import ignore_broken_pipe\nignore_broken_pipe()\nprint('seen')\ntime.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"seen\n"
        process.kill()
