"""Ranks that are stopped and continue (Ctrl-Z, `docker pause`, `scontrol suspend`), as real processes."""

import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from msanet import distributed
from support.commands import steps_logged, wait_until, words
from support.errors import error_codes
from support.ranks import start_ranks
from support.small_runs import newest

TIMEOUTS = ["run.heartbeat_timeout_seconds=8", "run.stall_timeout_seconds=9", "storage.download_timeout_seconds=5"]
"""Below those of a step on a busy machine a pause could not be told from it."""


def _collectives() -> None:
    for step in range(100_000):
        distributed.begin_stage(f"in step {step}")
        distributed.all_reduce_max(step)
        if step == 5:
            print("ready", flush=True)
        time.sleep(0.02)


def has_steps(folder: Path, count: int) -> bool:
    return steps_logged(folder) >= count


def test_a_run_whose_ranks_are_all_stopped_continues_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    """For longer than each of the timeouts; after it one rank alone is stopped for half of the heartbeat timeout."""
    folder, whole = tmp_path / "paused", tmp_path / "whole"
    ranks = start_ranks(2, words(shards, folder, 60, *TIMEOUTS))
    wait_until(lambda: steps_logged(folder) >= 3, ranks)
    for number, seconds, stopped in ((1, 14.0, ranks), (2, 4.0, ranks[:1]), (3, 4.0, ranks[1:])):
        for rank in stopped:
            rank.send_signal(signal.SIGSTOP)
        before = steps_logged(folder)
        time.sleep(seconds)
        for rank in stopped:
            rank.send_signal(signal.SIGCONT)
        if number < 3:
            wait_until(partial(has_steps, folder, before + 2), ranks)
    outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert "did not run for about 1" in outputs[0] and "the run continues" in outputs[0]
    for rank in start_ranks(2, words(shards, whole, 60)):
        assert rank.wait(timeout=200) == 0
    paused, reference = newest(folder / "checkpoints"), newest(whole / "checkpoints")
    assert paused.state == reference.state
    assert all(torch.equal(tensor, paused.weights[name]) for name, tensor in reference.weights.items())


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_was_stopped_for_too_long_blames_itself(victim: int) -> None:
    command = [str(Path(__file__).parent.parent / "support" / "ranks.py"), __file__, "_collectives", "{}"]
    ranks = start_ranks(2, command, RANKS_TIMEOUT="16")
    for rank in ranks:
        assert rank.stdout
        while (line := rank.stdout.readline()) != "ready\n":
            assert line, rank.wait()
    ranks[victim].send_signal(signal.SIGSTOP)
    other = ranks[1 - victim].communicate(timeout=60)[0]
    time.sleep(1)
    ranks[victim].send_signal(signal.SIGCONT)
    own = ranks[victim].communicate(timeout=60)[0]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert error_codes(other) == ["MSA-DIST-006"] and f"rank {victim} " in other
    assert error_codes(own) == ["MSA-DIST-551"] and f"rank {victim} " in own, own
