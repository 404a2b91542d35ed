"""A run that is asked to stop saves, ends with exit code 75, and resumes where it was."""

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from conftest import REPOSITORY
from msanet.distributed.preemption import EXIT_PREEMPTED
from support.commands import adopting_orphans, launch, steps_logged, wait_until, words
from support.errors import error_codes
from support.ranks import free_port, start_ranks
from support.small_runs import newest


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, id="SIGTERM"), pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow)],
)
def test_a_preempted_run_saves_and_resumes_to_the_same_weights(
    shards: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """One process; the weights at the end are those of a run that nobody stopped, bit for bit."""
    folder = tmp_path / "stopped"
    (process,) = start_ranks(1, words(shards, folder, 40))
    wait_until(lambda: steps_logged(folder) >= 3, [process])
    process.send_signal(number)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == EXIT_PREEMPTED, output
    assert f"rank 0 got {number.name}: the run saves after this step and stops" in output
    step = newest(folder / "checkpoints").state.step
    assert 3 <= step < 40 and step == steps_logged(folder)
    for path in (folder, tmp_path / "whole"):
        (process,) = start_ranks(1, words(shards, path, 40))
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 0, output
    stopped, whole = newest(folder / "checkpoints"), newest(tmp_path / "whole" / "checkpoints")
    assert stopped.state == whole.state and whole.state.step == 40
    assert all(torch.equal(tensor, stopped.weights[name]) for name, tensor in whole.weights.items())


def test_a_signal_to_one_rank_stops_all_after_the_same_step(shards: Path, tmp_path: Path) -> None:
    ranks = start_ranks(2, words(shards, tmp_path / "run", 400))
    wait_until(lambda: steps_logged(tmp_path / "run") >= 2, ranks)
    ranks[1].send_signal(signal.SIGUSR1)
    outputs = [rank.communicate(timeout=100)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [EXIT_PREEMPTED] * 2, outputs
    assert "rank 1 got SIGUSR1" in outputs[1] and "Traceback" not in "".join(outputs)
    state = newest(tmp_path / "run" / "checkpoints").state
    assert state.consumed_samples == 4 * state.step and 2 <= state.step < 400


def watched(grace: float, body: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = "import os, signal, time\nfrom msanet.distributed.preemption import PreemptionHandler\n"
    code += "from msanet.distributed.process_exit import declare_command\ndeclare_command()\n"
    code += "from msanet.distributed.session import ensure_logging\nensure_logging()\n"
    code += f"{before}with PreemptionHandler({grace}, 0) as handler:\n    {body}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


@pytest.mark.parametrize("library", ["libtorch", "numpy"])
def test_an_interrupt_while_a_run_imports_ends_it(shards: Path, tmp_path: Path, library: str) -> None:
    """As an exception it may be caught by the library that is being imported, and the run continues with half of it."""
    (process,) = start_ranks(1, words(shards, tmp_path / "run", 4000))
    wait_until(lambda: library in Path(f"/proc/{process.pid}/maps").read_text(), [process])
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=100) == ("", None)
    assert process.returncode == -signal.SIGINT and not (tmp_path / "run").exists()


def test_a_second_interrupt_leaves_at_once() -> None:
    done = watched(60, "os.kill(os.getpid(), signal.SIGINT); time.sleep(3.2); os.kill(os.getpid(), signal.SIGINT)")
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert done.stderr.count("got SIGINT") == 1


def test_one_interrupt_that_arrives_twice_counts_once() -> None:
    """From the terminal, and again from torchrun or jobs/ranks.sh, which have got it too."""
    done = watched(60, "os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT); time.sleep(1)")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("got SIGINT") == 1


GRACE = """
import signal, time
from msanet.awake_clock import awake_clock
from msanet.distributed.preemption import PreemptionHandler
from msanet.distributed.process_exit import declare_command
declare_command()
awake_clock.tick_in_background(0.1)
with PreemptionHandler(3, 0):
    print("ready", flush=True)
    while True:
        time.sleep(0.1)
"""


def test_a_pause_is_no_time_to_save_in() -> None:
    """Asked to stop, suspended for longer than the grace period, and continued."""
    with subprocess.Popen([sys.executable, "-c", GRACE], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)
        time.sleep(1)
        assert process.poll() is None
        assert process.wait(timeout=20) == 1


def test_a_closed_terminal_saves(shards: Path, tmp_path: Path) -> None:
    """The kernel sends SIGHUP, and what the run prints from then on is an error (EIO)."""
    ours, theirs = os.openpty()
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, *words(shards, folder, 4000)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        start_new_session=True,
        text=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    threading.Thread(target=drain, args=(ours, closed := threading.Event()), daemon=True).start()
    wait_until(lambda: steps_logged(folder) >= 3, [process])
    closed.set()
    assert process.wait(timeout=100) == EXIT_PREEMPTED
    assert newest(folder / "checkpoints").state.step == steps_logged(folder) < 4000


def drain(terminal: int, closed: threading.Event) -> None:
    """Read it until it is to be closed; a bar shows that the training is at it."""
    while not closed.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 10_000)
    os.close(terminal)


@pytest.mark.parametrize("is_ignored", [False, True], ids=["SIGHUP", "under nohup"])
def test_a_hangup_is_a_request_to_stop_unless_it_was_ignored(is_ignored: bool) -> None:
    body = "os.kill(os.getpid(), signal.SIGHUP); print('requested', handler.stop_requested())"
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" if is_ignored else ""
    done = watched(60, body, before)
    assert done.returncode == 0 and done.stdout == f"requested {not is_ignored}\n", done.stderr


def test_a_run_that_cannot_save_in_time_ends_with_an_error() -> None:
    done = watched(0.2, "os.kill(os.getpid(), signal.SIGUSR1); time.sleep(50)")
    assert done.returncode == 1
    assert error_codes(done.stderr) == ["MSA-DIST-011"] and "SIGUSR1" in done.stderr


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGTERM, 2), (signal.SIGKILL, 1)], ids=["SIGTERM", "SIGKILL"])
def test_a_launcher_that_is_gone_leaves_a_checkpoint_and_no_process(
    shards: Path, tmp_path: Path, number: signal.Signals, ranks: int
) -> None:
    """`deepspeed` itself is killed; it leaves its ranks running, so they save and end by themselves."""
    process = launch(tmp_path / "log", words(shards, tmp_path / "run", 4000), ranks)
    wait_until(lambda: steps_logged(tmp_path / "run") >= 2, [process])
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 1 + ranks  # the second launcher, and the ranks
    process.send_signal(number)
    process.wait(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == [], (tmp_path / "log").read_text()
    state = newest(tmp_path / "run" / "checkpoints").state
    assert 2 <= state.step < 4000
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == state.step


@pytest.fixture
def adopts_orphans() -> Iterator[None]:
    with adopting_orphans():
        yield


@pytest.mark.usefixtures("adopts_orphans")
@pytest.mark.parametrize("victim", ["runner", "launch"])
def test_a_launcher_that_is_gone_before_its_rank_has_begun_leaves_no_process(
    shards: Path, tmp_path: Path, victim: str
) -> None:
    """`deepspeed` is deepspeed.launcher.runner, which starts deepspeed.launcher.launch, which starts the rank.

    Nobody asks for the exit code of the one that is killed, so that it stays there as a zombie.
    """
    process = launch(tmp_path / "log", words(shards, tmp_path / "run", 4000), ranks=1)
    runner = psutil.Process(process.pid)
    launchers: list[psutil.Process] = []

    def has_launcher() -> bool:
        """Other children come and go: the runner asks the machine what it has."""
        for child in runner.children():
            with suppress(psutil.NoSuchProcess):
                launchers.extend([child] if "deepspeed.launcher.launch" in child.cmdline() else [])
        return bool(launchers)

    wait_until(has_launcher, [process])
    second = launchers[0]
    if victim == "runner":
        process.kill()
    deadline = time.monotonic() + 100
    while not (ranks := second.children()):
        assert time.monotonic() < deadline and second.is_running(), (tmp_path / "log").read_text()
        time.sleep(0.02)
    if victim == "launch":
        second.kill()
    _, alive = psutil.wait_procs([second, *ranks], timeout=60)
    assert alive == [] and steps_logged(tmp_path / "run") < 100, (tmp_path / "log").read_text()
    process.wait(timeout=60)


def test_checkpoints_by_the_clock_and_the_best(shards: Path, tmp_path: Path) -> None:
    """A checkpoint about every step by minutes of 0.001; of the kept ones one is the best, however old."""
    more = ["trainer.checkpoint_every_minutes=0.00001", "trainer.val_every_epochs=0.3", "optimizer.lr=0.01"]
    (process,) = start_ranks(1, words(shards, tmp_path / "run", 12, *more))
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["val/mean_iou"] for line in lines if "val/mean_iou" in line}
    best = newest(tmp_path / "run" / "checkpoints").state.best
    assert len(scores) > 3 and best is not None
    assert best.mean_iou == max(scores.values()) == scores[best.step]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert (checkpoints / "best").read_text() == f"step-{best.step:08d}\n"
    kept = {int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*")}
    assert kept == {12, 11, best.step}


@pytest.mark.slow
def test_a_loader_that_stalls_ends_the_run_by_name(shards: Path, tmp_path: Path) -> None:
    """Loader processes that live but bring nothing; a single rank, so that no collective would notice."""
    more = ["run.stall_timeout_seconds=16", "storage.download_timeout_seconds=5"]
    (process,) = start_ranks(1, words(shards, tmp_path / "run", 100_000, *more))
    wait_until(lambda: steps_logged(tmp_path / "run") >= 3, [process])
    loaders = [child for child in psutil.Process(process.pid).children(recursive=True) if len(child.cmdline()) > 1]
    for loader in loaders:
        loader.suspend()
    process.wait(timeout=100)
    for loader in loaders:
        loader.resume()
    output = process.communicate(timeout=60)[0]  # they hold the pipe, too
    assert process.returncode == 1, output
    assert error_codes(output) == ["MSA-DIST-007"], output
    assert re.search(r"rank 0 \(host \S+\) .* waiting for the data of step \d+", output), output
    _, alive = psutil.wait_procs(loaders, timeout=60)
    assert alive == []


@pytest.mark.usefixtures("adopts_orphans")
@pytest.mark.parametrize(
    ("is_first", "number"), [(True, signal.SIGTERM), (False, signal.SIGHUP)], ids=["process 1", "on a host"]
)
def test_deepspeed_below_our_entrypoint_saves_and_ends_with_75(
    shards: Path, tmp_path: Path, is_first: bool, number: signal.Signals
) -> None:
    """As process 1 of a container, alone, it would ignore the signal; on a host it would end with 143 at once."""
    folder = tmp_path / "run"
    command = ["jobs/entrypoint.py", "-m", "deepspeed.launcher.runner", "--num_accelerators", "2"]
    command = [sys.executable, command[0], sys.executable, *command[1:], "--master_port", str(free_port())]
    if is_first:
        new = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if subprocess.run([*new, "true"], capture_output=True).returncode:
            pytest.skip("a namespace of processes of its own is not allowed here")
        command = new + command
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *words(shards, folder, 4000)], cwd=REPOSITORY, env=environment, stdout=log, stderr=log, text=True
        )
    wait_until(lambda: steps_logged(folder) >= 2, [process])
    (first,) = psutil.Process(process.pid).children() if is_first else [psutil.Process(process.pid)]
    family = first.children(recursive=True)
    assert len(family) >= 4  # two launchers, two ranks
    first.send_signal(number)
    output = process.wait(timeout=100), (tmp_path / "log").read_text()
    assert output[0] == EXIT_PREEMPTED and f"rank 0 got {number.name}" in output[1], output
    assert "first process of this container" not in output[1]
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert newest(folder / "checkpoints").state.step == steps_logged(folder) < 4000


def test_deepspeed_as_the_first_process_of_a_container_is_warned_of(shards: Path, tmp_path: Path) -> None:
    """It ignores SIGTERM, and nothing here can change that."""
    new = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*new, "true"], capture_output=True).returncode:
        pytest.skip("a namespace of processes of its own is not allowed here")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", "1", "--master_port"]
    done = subprocess.run(
        [*new, *command, str(free_port()), *words(shards, tmp_path / "run", 1)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"},
    )
    assert done.returncode == 0 and done.stderr.count("first process of this container") == 1, done.stderr


def test_our_entrypoint_passes_on_the_exit_code_and_becomes_other_commands() -> None:
    def code(*command: str) -> int:
        return subprocess.run([sys.executable, "jobs/entrypoint.py", *command], cwd=REPOSITORY).returncode

    assert code(sys.executable, "-c", "import os; os._exit(7)", "deepspeed") == 7
    assert code(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)", "deepspeed") == 137
    assert code("sh", "-c", "exit 3") == 3
    assert code("/nowhere/deepspeed") == 127 and code() == 2
