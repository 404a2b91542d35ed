"""Run a function of a test module on several real processes, each a rank of one gloo job.

run_ranks(2, __file__, "_worker", {"stage": 2})   # calls _worker(stage=2) on both ranks, inside a session
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_ranks(
    world_size: int, module: str, function: str, arguments: dict[str, Any], timeout: float = 300
) -> list[str]:
    """Start the ranks, wait, and return what each printed. Fails the test with their output if one fails."""
    processes = start_ranks(world_size, [__file__, module, function, json.dumps(arguments, default=str)])
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * world_size, f"exit codes {codes}\n" + "\n".join(outputs)[-6000:]
    return outputs


def start_ranks(world_size: int, command: list[str], **environment: str) -> list[subprocess.Popen[str]]:
    """Start `python *command` once per rank, as a launcher would, without waiting."""
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world_size),
        **environment,
    }
    common |= {"PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu", "LOCAL_WORLD_SIZE": str(world_size)}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _main(module: str, function: str, arguments: str) -> None:
    from msanet import distributed

    sys.path.insert(0, str(Path(__file__).parent))
    spec = importlib.util.spec_from_file_location("worker_module", module)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["worker_module"] = loaded
    spec.loader.exec_module(loaded)
    with distributed.session(timeout=float(os.environ.get("RANKS_TIMEOUT", "120"))):
        getattr(loaded, function)(**json.loads(arguments))


if __name__ == "__main__":
    _main(*sys.argv[1:])
