"""Processes that srun or mpirun starts, without a launcher of torch's, find one another."""

import os
import subprocess
import sys

import pytest

from conftest import REPOSITORY
from support.ranks import free_port

PROGRAM = (
    "import torch; from msanet import distributed\n"
    "with distributed.session(distributed.Timeouts.scaled(60)):\n"
    "    total = distributed.all_reduce_sum(torch.tensor(distributed.rank() + 1.0))\n"
    "    print('sum', int(total), 'of', distributed.world_size(), 'local', distributed.local_rank())\n"
)


SRUN = {
    "SLURM_PROCID": "RANK",
    "SLURM_LOCALID": "RANK",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "127.0.0.[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_JOB_ID": "PORT",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "RANK",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "PORT",
}


@pytest.mark.parametrize("variables", [SRUN, MPIRUN], ids=["srun", "mpirun"])
def test_two_processes_are_one_job(variables: dict[str, str]) -> None:
    others = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "MASTER_"))}
    others |= {"PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    port, command, pipe = str(free_port()), [sys.executable, "-c", PROGRAM], subprocess.PIPE
    processes = []
    for rank in ("0", "1"):
        own = {name: {"RANK": rank, "PORT": port}.get(value, value) for name, value in variables.items()}
        processes.append(subprocess.Popen(command, cwd=REPOSITORY, env={**others, **own}, stdout=pipe, text=True))
    outputs = [process.communicate(timeout=150)[0] for process in processes]
    assert outputs == [f"sum 3 of 2 local {rank}\n" for rank in (0, 1)]
