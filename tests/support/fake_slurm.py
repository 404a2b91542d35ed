"""Plays `sbatch`, `srun` and `scontrol` of a cluster whose nodes are all this machine, by the name it is called with.

Understands what jobs/slurm.sh uses, in the folder $FAKE_SLURM: `calls` has each call, `ranks` the process ids of the ranks.
"""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

JOB = "4711"
NODES = ["127.0.0.1", "127.0.0.2"]


def install(folder: Path) -> dict[str, str]:
    """Put the three programs into `folder`. The environment in which they are found, with this Python behind them."""
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "FAKE_SLURM": str(folder), "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"}


def calls(folder: Path, name: str) -> list[list[str]]:
    """The arguments of each call of a program so far."""
    lines = (folder / "calls").read_text().splitlines() if (folder / "calls").is_file() else []
    return [words for program, *words in map(json.loads, lines) if program == name]


def signal_step(folder: Path, number: signal.Signals) -> None:
    """As SLURM does it: to all processes that belong to the ranks."""
    ranks = [psutil.Process(int(line)) for line in (folder / "ranks").read_text().split()]
    for process in [child for rank in ranks for child in rank.children(recursive=True)] + ranks:
        process.send_signal(number)


def _sbatch(folder: Path, words: list[str]) -> int:
    own = [word for word in words if word.startswith("--") and words.index(word) < words.index("jobs/slurm.sh")]
    script, *arguments = words[len(own) :]
    copy = folder / "slurm_script"  # SLURM runs a copy too, so $0 says nothing
    shutil.copy(script, copy)
    header = re.findall(r"^#SBATCH (--\S+)", copy.read_text(), re.MULTILINE)
    options = dict(word.removeprefix("--").partition("=")[::2] for word in [*header, *own])
    per_node, nodes = int(options["ntasks-per-node"]), int(options["nodes"])
    environment = {
        **os.environ,
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": f"node[1-{nodes}]",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_NTASKS_PER_NODE": str(per_node),
        "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
    }
    for restart in range(10):
        if restart:
            environment["SLURM_RESTART_COUNT"] = str(restart)
        code = subprocess.run(["bash", str(copy), *arguments], env=environment).returncode
        if not (folder / "requeued").exists():
            return code
        assert "requeue" in options, "the cluster's own setting would decide"
        (folder / "requeued").unlink()
    raise AssertionError("requeued without end")


def _srun(folder: Path, words: list[str]) -> int:
    command = words[next(number for number, word in enumerate(words) if not word.startswith("--")) :]
    per_node = int(os.environ["SLURM_NTASKS_PER_NODE"])
    ranks = []
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        place = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % per_node, "SLURM_NODEID": rank // per_node}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        ranks.append(subprocess.Popen(command, env=environment))
    (folder / "ranks").write_text("\n".join(str(rank.pid) for rank in ranks))
    codes = [rank.wait() for rank in ranks]
    return max(code if code >= 0 else 128 - code for code in codes)


def _scontrol(folder: Path, words: list[str]) -> int:
    match words:
        case ["show", "hostnames", nodes]:
            print("\n".join(NODES[: int(nodes.removesuffix("]").rpartition("-")[2])]))
        case ["requeue", job] if job == JOB:
            (folder / "requeued").touch()
            os.kill(os.getppid(), signal.SIGTERM)  # it ends the script that asks for it
            time.sleep(5)
        case _:
            return 1
    return 0


def main(name: str, words: Sequence[str]) -> int:
    folder = Path(os.environ["FAKE_SLURM"])
    with (folder / "calls").open("a") as file:
        file.write(json.dumps([name, *words]) + "\n")
    return {"sbatch": _sbatch, "srun": _srun, "scontrol": _scontrol}[name](folder, list(words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
