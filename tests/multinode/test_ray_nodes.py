"""A sweep on a Ray cluster of two hosts, of which one is lost in the middle."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from conftest import REPOSITORY
from support.hosts import Hosts, two_hosts
from support.ray_nodes import Node, ray_head

pytestmark = [
    pytest.mark.multinode,
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray[tune] is not installed"),
]

RUN = {
    "run": {"heartbeat_timeout_seconds": 10, "stall_timeout_seconds": 16, "rendezvous_timeout_seconds": 20},
    "storage": {"download_timeout_seconds": 5},
    "data": {"crop": [32, 40], "num_workers": 1},
    "model": {"name": "unet", "width": 0.05},
    "evaluation": {"num_workers": 0, "panels": 0, "worst": 0},
    "trainer": {
        "global_batch_size": 4,
        "log_every_steps": 1,
        "checkpoint_every_steps": 2,
        "val_every_epochs": 1,
        "steps": 40,
    },
}
SWEEP = {"trials": 3, "ranks": 2, "max_failures": 3}


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with two_hosts(tmp_path / "hosts") as hosts:
        yield hosts


@pytest.fixture
def cluster(hosts: Hosts, tmp_path: Path) -> Iterator[Node]:
    """Its head on host-1. Three cores on each host as Ray sees them: a trial on each, and one on both."""
    first, second = hosts.all
    name = f"--node-ip-address={first.address}"
    with ray_head(tmp_path / "home", 3, name, inside=first.inside()) as head:
        words = [f"--address={head.address}", f"--node-ip-address={second.address}", "--num-cpus=3"]
        other = Node(head.home, *words, inside=second.inside())
        try:
            yield head
        finally:
            other.close()


def kill_everything(hosts: Hosts) -> None:
    for process in hosts.all[1].processes():
        process.kill()


@pytest.mark.parametrize("event", [kill_everything, Hosts.cut], ids=["killed", "cut off"])
def test_a_node_is_lost(
    event: Callable[[Hosts], None], hosts: Hosts, cluster: Node, shards: Path, tmp_path: Path
) -> None:
    """Trials on it go on from their last checkpoints on the other; in the end none has left out or repeated a step."""
    folder, file, log = tmp_path / "out", tmp_path / "s.yaml", tmp_path / "log"
    space = {"optimizer.lr": {"log_uniform": [1e-3, 1e-2]}}
    file.write_text(yaml.safe_dump({"sweep": SWEEP, "run": RUN, "space": space}))
    words = ["jobs/sweep.py", "--config", file, "--address", cluster.address]
    command = hosts.all[0].inside(
        "env", "-C", REPOSITORY, sys.executable, *words, f"data.path={shards}", f"sweep.folder={folder}"
    )
    with log.open("wb") as output:
        sweep = subprocess.Popen(command, env=cluster.environment(), stdout=output, stderr=output)
    deadline = time.monotonic() + 1000
    while len(saved(folder)) < 3:
        assert sweep.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    event(hosts)
    start = time.monotonic()
    assert sweep.wait(1000) == 0, log.read_text()
    print(
        f"{time.monotonic() - start:.0f} s from the loss of a node with two of three trials to the end", log.read_text()
    )

    with (folder / "results.csv").open() as results:
        rows = list(csv.DictReader(results))
    assert [row["status"] for row in rows] == ["done"] * 3 and all(float(row["mean_iou"]) > 0 for row in rows), rows
    for row in rows:
        lines = (folder / "trials" / row["trial"] / "metrics.jsonl").read_text().splitlines()
        steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
        assert steps == list(range(1, 41)), row
    again = [run for run in saved(folder) if "resuming from" in (run / "ranks" / "00000.log").read_text()]
    assert len(again) == log.read_text().count("resumes from its last checkpoint") == 2, log.read_text()
    assert cluster.alive and (folder / "best.yaml").is_file()


def saved(folder: Path) -> list[Path]:
    """The trials that have made a checkpoint."""
    return [run for run in folder.glob("trials/*") if list(run.glob("checkpoints/step-*/state.json"))]
