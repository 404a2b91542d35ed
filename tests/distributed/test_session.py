"""Sessions of a Python program (a notebook, a script): they return or raise, and leave the process as it was."""

import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY
from support.ranks import start_ranks

ONE_RANK = """
import os, signal, threading, time
import torch
from msanet import distributed
from msanet.distributed.preemption import PreemptionHandler
from msanet.errors import UserError

numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
before, environment = [signal.getsignal(number) for number in numbers], {*os.environ}

def assert_clean():
    assert not torch.distributed.is_initialized() and distributed.describe_rank(0) == "rank 0"
    assert [signal.getsignal(number) for number in numbers] == before
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT"} & ({*os.environ} - environment)

for _ in range(2):
    with distributed.session():
        PreemptionHandler(1, 0)
        assert int(distributed.all_reduce_sum(torch.tensor(3))) == 3
        torch.distributed.all_reduce(torch.ones(2))
        distributed.barrier()
    assert_clean()

def raise_error():
    raise UserError("MSA-TEST-001", "seven found")

def preempt():
    raise SystemExit(75)

def preempt_before_first_step():
    PreemptionHandler(1, 0)
    signal.raise_signal(signal.SIGTERM)

def stall():
    distributed.begin_stage("sleeping")
    time.sleep(1000)

for function, expected in (
    (raise_error, UserError),
    (preempt, distributed.Preempted),
    (preempt_before_first_step, distributed.Preempted),
    (stall, distributed.JobFailed),
):
    try:
        with distributed.session(distributed.Timeouts.scaled(2)):
            function()
    except expected as error:
        print(function.__name__, "raised", error)
    else:
        raise AssertionError(function)
    assert_clean()
print("end of script")
"""


def test_sessions_of_one_process_return_or_raise() -> None:
    command = [sys.executable, "-W", "ignore", "-c", ONE_RANK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=REPOSITORY)
    assert done.returncode == 0 and done.stdout.endswith("end of script\n"), done.stdout + done.stderr
    assert "MSA-DIST-007" in done.stdout


TWO_RANKS = """
import sys
import torch
from msanet import distributed
for _ in range(3):
    with distributed.session(distributed.Timeouts.scaled(40)):
        assert int(distributed.all_reduce_sum(torch.tensor(distributed.rank()))) == 1
try:
    with distributed.session(distributed.Timeouts.scaled(40)):
        distributed.all_reduce_max(1)
        if distributed.rank() == 1:
            raise ValueError("seven is not an even number")
        distributed.all_reduce_max(2)
except (ValueError, distributed.JobFailed) as error:
    print("caught", type(error).__name__, error)
"""


def test_an_error_of_one_rank_is_raised_on_all(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TWO_RANKS)
    ranks = start_ranks(2, [str(script)], PYTHONPATH=str(REPOSITORY))
    outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert "caught JobFailed rank 1 (host" in outputs[0] and "caught ValueError seven" in outputs[1]
