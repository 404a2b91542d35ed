"""Failures of real ranks are named, on time, by rank and host; and a rank that is only slow is waited for."""

import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from msanet import distributed
from msanet.distributed.device import prepare_device
from msanet.distributed.failure_detector import FailureReport
from msanet.distributed.heartbeat import CHECKPOINT_THREAD
from msanet.distributed.session import _exit_on_failure
from msanet.errors import UserError
from support.errors import error_codes, raises_user_error
from support.ranks import start_ranks

TIMEOUT = 20.0
HOST = socket.gethostname()
TESTS = Path(__file__).parent.parent


def _collectives(failure: str) -> None:
    """Rank 1 of a job that reduces forever fails, once all ranks are at it."""
    for step in range(100_000):
        distributed.begin_stage(f"waiting for the data of step {step}")
        if step == 5 and distributed.rank() == 1:
            if failure == "stall":
                time.sleep(1000)
            if failure == "bug":
                raise ValueError("seven is not an even number")
            if failure == "bad input":
                raise UserError("MSA-TEST-001", "seven found, expected an even number; add one")
        distributed.begin_stage(f"in step {step}")
        distributed.all_reduce_max(step)
        if step == 5:
            print("ready", flush=True)
        time.sleep(0.02)


def _uneven() -> None:
    """Rank 1 takes longer than the timeout, and says that it gets on."""
    if distributed.rank() == 1:
        for image in range(10):
            distributed.report_progress(f"evaluating image {image}")
            time.sleep(1.5)
    distributed.barrier()

    def slow() -> int:
        time.sleep(1)
        return 7

    assert distributed.on_main(slow) == 7


def _compiling() -> None:
    """A step that is known to be slow, on rank 1, for which rank 0 waits in a collective."""
    distributed.begin_stage("in step 1", slow=True)
    if distributed.rank() == 1:
        time.sleep(7)
    assert distributed.all_reduce_max(distributed.rank()) == 1


def start(
    function: str, arguments: str = "{}", ranks: int = 3, timeout: float = TIMEOUT
) -> list[subprocess.Popen[str]]:
    return start_ranks(
        ranks, [str(TESTS / "support" / "ranks.py"), __file__, function, arguments], RANKS_TIMEOUT=str(timeout)
    )


def ends(ranks: list[subprocess.Popen[str]], seconds: float) -> tuple[list[int], list[str]]:
    outputs = [rank.communicate(timeout=seconds)[0] for rank in ranks]
    return [rank.returncode for rank in ranks], outputs


def wait_until_ready(rank: subprocess.Popen[str]) -> None:
    assert rank.stdout
    while rank.stdout.readline() != "ready\n":
        assert rank.poll() is None, rank.stdout.read()


@pytest.mark.parametrize(
    ("victim", "number", "code"),
    [
        (1, signal.SIGKILL, "MSA-DIST-008"),
        (0, signal.SIGKILL, "MSA-DIST-008"),
        pytest.param(2, signal.SIGSTOP, "MSA-DIST-006", marks=pytest.mark.slow),
        (0, signal.SIGSTOP, "MSA-DIST-006"),
    ],
)
def test_a_lost_rank_is_named_by_one_of_the_others(victim: int, number: signal.Signals, code: str) -> None:
    ranks = start("_collectives", '{"failure": "none"}')
    for rank in ranks:
        wait_until_ready(rank)
    ranks[victim].send_signal(number)
    others = [rank for rank in ranks if rank is not ranks[victim]]
    codes, outputs = ends(others, TIMEOUT + 30)
    ranks[victim].kill()
    ranks[victim].communicate()
    assert codes == [1, 1], outputs
    assert error_codes("".join(outputs)) == [code] and "Traceback" not in "".join(outputs), outputs
    assert f"rank {victim} (host {HOST})" in "".join(outputs), outputs


@pytest.mark.parametrize(
    ("failure", "exit_code", "code", "message"),
    [
        ("stall", 1, "MSA-DIST-007", rf"rank 1 \(host {HOST}\) .* for 1\d s while waiting for the data of step 5;"),
        ("bug", 1, "MSA-DIST-010", rf"rank 1 \(host {HOST}\) .*ValueError: seven is not an even number"),
        ("bad input", 2, "MSA-TEST-001", "error: seven found, expected an even number; add one"),
    ],
)
def test_a_failure_of_one_rank_ends_all_with_its_message(failure: str, exit_code: int, code: str, message: str) -> None:
    codes, outputs = ends(start("_collectives", f'{{"failure": "{failure}"}}'), TIMEOUT + 60)
    assert codes == [exit_code] * 3, outputs
    everything = "".join(outputs)
    assert error_codes(everything) == [code] and re.search(message, everything), outputs
    assert everything.count("Traceback") == (1 if failure == "bug" else 0), outputs


def test_a_slow_rank_that_makes_progress_is_waited_for() -> None:
    codes, outputs = ends(start("_uneven", ranks=2, timeout=10), 100)
    assert codes == [0, 0], outputs


def test_a_collective_waits_as_long_as_a_slow_step_may_take() -> None:
    codes, outputs = ends(start("_compiling", ranks=2, timeout=5), 100)
    assert codes == [0, 0], outputs


@pytest.mark.usefixtures("survives_exit")
def test_only_the_checkpoint_thread_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle threads of a pool, such as those that read ahead, never end."""
    joined: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        writer = threading.Thread(target=time.sleep, args=(0.5,), name=CHECKPOINT_THREAD)
        writer.start()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "join", lambda thread, timeout: joined.append(thread.name))
            with pytest.raises(SystemExit, match="1"):
                _exit_on_failure(FailureReport("the end"))
    assert joined == [CHECKPOINT_THREAD]


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with raises_user_error("MSA-DIST-001", mentions="2 GPUs"):
        prepare_device()


@pytest.mark.parametrize("missing", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_rank_that_never_joins_is_named(missing: int) -> None:
    ranks = start("_uneven")
    ranks[missing].kill()
    codes, outputs = ends([rank for rank in ranks if rank is not ranks[missing]], 60)
    ranks[missing].communicate()
    assert codes == [1, 1], outputs
    code = "MSA-DIST-004" if missing else "MSA-DIST-003"
    assert code in error_codes("".join(outputs)) and f"rank {missing} " in "".join(outputs), outputs
