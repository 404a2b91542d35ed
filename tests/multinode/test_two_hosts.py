"""A training on two hosts, and what happens when one of them, or what lies between them, fails.

Every run here ends with the weights of a run that nobody disturbed. `make test-multinode` runs these tests and prints how long
each end took.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from msanet.training.checkpoint.format import Checkpoint
from support.commands import steps_logged
from support.hosts import TRAIN, Hosts, Job, two_hosts
from support.ranks import start_ranks
from support.small_runs import newest

pytestmark = pytest.mark.multinode

STEPS, BATCH, TIMEOUT = 60, 4, 20
SETTINGS = "model.name=unet model.width=0.05 data.crop=[32,40] data.num_workers=1 evaluation.num_workers=0"
SETTINGS += (
    " trainer.log_every_steps=1 trainer.checkpoint_every_steps=15 trainer.val_every_epochs=0 run.record_samples=true"
)
SETTINGS += f" trainer.steps={STEPS} trainer.global_batch_size={BATCH} storage.download_timeout_seconds={TIMEOUT / 4}"

SETTINGS += f" run.heartbeat_timeout_seconds={TIMEOUT / 2} run.stall_timeout_seconds={0.8 * TIMEOUT}"
SETTINGS += f" run.rendezvous_timeout_seconds={TIMEOUT}"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with two_hosts(tmp_path / "hosts") as hosts:
        yield hosts


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The end of the same run, of two ranks on one host."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    ranks = start_ranks(2, words(shards, run))
    outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    return newest(run / "checkpoints")


def words(shards: Path, run: Path) -> list[str]:
    return [TRAIN, f"data.path={shards}", f"run.dir={run}", *SETTINGS.split()]


def wait_until(done: Callable[[], object], job: Job) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline and job.process.poll() is None, job.output[-6000:]
        time.sleep(0.02)


def at_step_20(hosts: Hosts, folder: Path, command: list[str], *options: str) -> Job:
    """A job that is under way."""
    job = Job(hosts, folder, command, *options)
    wait_until(lambda: steps_logged(folder.parent / "run") >= 20, job)
    return job


def kill_rank_1(hosts: Hosts) -> None:
    victim = hosts.all[1].rank()
    assert victim is not None
    victim.kill()


def end(job: Job, event: str, within: float = 60) -> int:
    """The exit code of a job to which `event` has just happened; `within` s, nothing of it is left on either host."""
    start = time.monotonic()
    code = job.wait(within)
    seconds = time.monotonic() - start
    said = re.findall(r"^(?:\S+: )?(?:\d\d:\d\d:\d\d )?(error: .*|warning: rank \d .*)", job.output, re.MULTILINE)
    print(f"{event}: {seconds:.1f} s to the end of the last process, exit code {code}", *said, sep="\n    ")
    return code


def same_as(undisturbed: Checkpoint, run: Path) -> bool:
    """Whether a run has taken each (epoch, sample) once and arrived at the weights of the undisturbed one, bit for bit."""
    lines = [json.loads(line) for file in run.glob("samples-*.jsonl") for line in file.read_text().splitlines()]
    seen = [pair for line in lines for pair in zip(line["epochs"], line["samples"], strict=True)]
    assert len(set(seen)) == len(seen) == STEPS * BATCH
    last = newest(run / "checkpoints")
    assert last.state == undisturbed.state and last.weights.keys() == undisturbed.weights.keys()
    return all(torch.equal(tensor, last.weights[name]) for name, tensor in undisturbed.weights.items())


def goes_on_as(undisturbed: Checkpoint, hosts: Hosts, folder: Path, command: list[str]) -> bool:
    """Whether the same command again ends as the undisturbed run."""
    job = Job(hosts, folder / "resumed", command)
    assert job.wait(200) == 0, job.output
    return same_as(undisturbed, folder / "run")


def test_two_hosts_train_as_one(hosts: Hosts, shards: Path, tmp_path: Path, undisturbed: Checkpoint) -> None:
    job = Job(hosts, tmp_path / "job", words(shards, tmp_path / "run"))
    wait_until(lambda: all(host.rank() for host in hosts.all), job)
    assert end(job, "a whole run", within=200) == 0, job.output
    assert same_as(undisturbed, tmp_path / "run")


def test_a_killed_rank_ends_the_job_on_both_hosts_and_it_resumes(
    hosts: Hosts, shards: Path, tmp_path: Path, undisturbed: Checkpoint
) -> None:
    job = at_step_20(hosts, tmp_path / "killed", words(shards, tmp_path / "run"))
    kill_rank_1(hosts)
    assert end(job, "kill -9 of a rank") > 0
    assert re.search(r"error: .*\brank 1 \(host host-2", job.output), job.output
    assert steps_logged(tmp_path / "run") < STEPS
    assert goes_on_as(undisturbed, hosts, tmp_path, words(shards, tmp_path / "run"))


def test_a_killed_rank_is_started_again_if_the_run_may(
    hosts: Hosts, shards: Path, tmp_path: Path, undisturbed: Checkpoint
) -> None:
    job = at_step_20(hosts, tmp_path / "job", [*words(shards, tmp_path / "run"), "run.max_restarts=1"])
    kill_rank_1(hosts)
    assert end(job, "kill -9 of a rank, run.max_restarts=1", within=200) == 0, job.output
    assert re.search(r"error: .*\brank 1 \(host host-2", job.output) and "restart 1 of run.max_restarts=1" in job.output
    assert same_as(undisturbed, tmp_path / "run")


def test_a_cut_link_ends_the_job_on_both_hosts_and_it_resumes(
    hosts: Hosts, shards: Path, tmp_path: Path, undisturbed: Checkpoint
) -> None:
    logs = tmp_path / "logs"  # what host-2 says does not reach host-1 any more
    job = at_step_20(hosts, tmp_path / "cut", words(shards, tmp_path / "run"), "--enable_each_rank_log", str(logs))
    hosts.cut()
    assert end(job, "link cut") > 0
    for rank, lost in ((0, r"error: .*\brank 1 \(host host-2"), (1, r"error: .*\brank 0 \(host host-1")):
        (log,) = logs.glob(f"*_rank{rank}.log")
        assert re.search(lost, log.read_text()), log.read_text()
    hosts.mend()
    assert goes_on_as(undisturbed, hosts, tmp_path, words(shards, tmp_path / "run"))


def test_a_link_that_is_cut_for_a_moment_changes_nothing(
    hosts: Hosts, shards: Path, tmp_path: Path, undisturbed: Checkpoint
) -> None:
    job = at_step_20(hosts, tmp_path / "job", words(shards, tmp_path / "run"))
    hosts.cut()
    before = steps_logged(tmp_path / "run")
    time.sleep(3)
    assert steps_logged(tmp_path / "run") <= before + 1 < STEPS, "the link was not cut"
    hosts.mend()
    assert end(job, "link cut for 3 s and mended", within=120) == 0, job.output
    assert same_as(undisturbed, tmp_path / "run")


def test_a_rank_that_dies_before_it_has_joined_is_named(hosts: Hosts, shards: Path, tmp_path: Path) -> None:
    job = Job(hosts, tmp_path / "job", words(shards, tmp_path / "run"))
    wait_until(hosts.all[1].rank, job)
    kill_rank_1(hosts)
    assert end(job, "kill -9 of a rank at its start") > 0
    assert re.search(r"error: .*\brank 1\b", job.output), job.output


def test_a_host_that_cannot_be_reached_at_the_start_is_named(hosts: Hosts, shards: Path, tmp_path: Path) -> None:
    hosts.cut()
    job = Job(hosts, tmp_path / "job", words(shards, tmp_path / "run"))
    assert end(job, "host-2 not there at the start") > 0
    assert re.search(r"error: .*\brank 1\b", job.output), job.output


def test_a_stopped_launcher_leaves_a_checkpoint_and_the_run_resumes(
    hosts: Hosts, shards: Path, tmp_path: Path, undisturbed: Checkpoint
) -> None:
    """`deepspeed` first ends ssh, so that ranks can print no more, and then sends SIGTERM to every process of theirs."""
    job = at_step_20(hosts, tmp_path / "stopped", words(shards, tmp_path / "run"))
    launcher = hosts.all[0].find("-m", "deepspeed.launcher.runner")
    assert launcher is not None
    launcher.send_signal(signal.SIGTERM)
    assert end(job, "SIGTERM to deepspeed") > 0
    stopped = newest(tmp_path / "run" / "checkpoints").state
    assert 20 <= stopped.step == steps_logged(tmp_path / "run") < STEPS
    assert goes_on_as(undisturbed, hosts, tmp_path, words(shards, tmp_path / "run"))
