"""Run a function of a test module on several real processes, each a rank of one gloo job.

run_ranks(2, __file__, "_worker", {"stage": 2})   # calls _worker(stage=2) on both ranks, inside a session
"""

import importlib.util
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
"""Whose processes have imported torch already, which takes a process of its own two seconds."""
_FORKS.set_forkserver_preload(["msanet.training.trainer", "torch._dynamo"])  # an optimizer imports the latter


def run_ranks(
    world_size: int, module: str, function: str, arguments: dict[str, Any], timeout: float = 300
) -> list[str]:
    """Start the ranks, wait, and return what each printed. Fails the test with their output if one fails."""
    work, deadline = (module, function, json.dumps(arguments, default=str)), time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(rank) for rank in range(world_size)]
        ranks = [
            _FORKS.Process(target=_run_forked, args=(environment, log, *work))
            for environment, log in zip(_environments(world_size), logs, strict=True)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(max(0.0, deadline - time.monotonic()))
        codes = [rank.exitcode for rank in ranks]
        for rank in ranks:
            rank.kill()
        outputs = [log.read_text() for log in logs]
    assert codes == [0] * world_size, f"exit codes {codes}\n" + "\n".join(outputs)[-6000:]
    return outputs


def start_ranks(world_size: int, command: list[str], **environment: str) -> list[subprocess.Popen[str]]:
    """Start `python *command` once per rank, as a launcher would, without waiting."""
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for own in _environments(world_size)
    ]


def _environments(world_size: int) -> list[dict[str, str]]:
    """What a launcher sets, for each rank."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    common |= {"PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # modules ask too
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_forked(environment: dict[str, str], log: Path, *work: str) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    warnings.simplefilter("ignore")
    os.environ.update(environment)
    _main(*work)


def _main(module: str, function: str, arguments: str) -> None:
    from msanet import distributed

    sys.path.insert(0, str(Path(__file__).parent.parent))
    spec = importlib.util.spec_from_file_location("worker_module", module)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["worker_module"] = loaded
    spec.loader.exec_module(loaded)
    with distributed.exiting_session(distributed.Timeouts.scaled(float(os.environ.get("RANKS_TIMEOUT", "120")))):
        getattr(loaded, function)(**json.loads(arguments))


if __name__ == "__main__":
    _main(*sys.argv[1:])
