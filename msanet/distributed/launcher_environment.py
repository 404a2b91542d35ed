"""Which rank of which job a process is, from the variables that launchers set: pure functions of an environment.

`deepspeed`, torchrun and jobs/*.sh set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. srun and mpirun have names of
their own. A process that is one of several but cannot find the others is refused: it would train alone, in the others' folder.
"""

import re
from collections.abc import Mapping

from msanet.errors import UserError

_PORTS = range(1, 2**16)
_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""Of Open MPI, MVAPICH, and MPICH or Intel MPI: rank, world size, local rank, local world size."""
_HOSTS = re.compile(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?")
_TASKS_PER_NODE = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def resolve_rank(environment: Mapping[str, str], free_port: int) -> dict[str, str]:
    """The variables that are missing for this process to be a rank of its job.

    Args:
        environment: Of the process.
        free_port: MASTER_PORT of a process that is alone.

    Raises:
        UserError: The environment is that of one process of several, but incomplete, or has a value that is not a number.
    """
    found = {**_from_slurm(environment), **_from_mpi(environment)} if "RANK" not in environment else {}
    known = {**found, **environment}
    rank, world_size = _number(known, "RANK"), _number(known, "WORLD_SIZE", lowest=1)
    _number(known, "LOCAL_RANK")
    _check_port(known)
    has_rank_variable = {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & known.keys()
    if world_size == 1 or not has_rank_variable:
        if rank:
            raise _incomplete(
                f"RANK is {rank}, but WORLD_SIZE is 1", "give all ranks of the job the same WORLD_SIZE", "RANK"
            )
        own = {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port),
        }
        return {name: value for name, value in (own | found).items() if name not in environment}
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not known.get(name)]
    if missing:
        given = ", ".join(f"{name}={known[name]}" for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in known)
        raise _incomplete(
            f"this process is one rank of several ({given}), but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            "not set",
            "set what is missing on all ranks, or start them by deepspeed, torchrun or srun; for one process by itself, set "
            "RANK=0 WORLD_SIZE=1",
            missing[0],
        )
    if rank is not None and world_size is not None and rank >= world_size:
        raise _incomplete(f"RANK is {rank}, expected less than WORLD_SIZE={world_size}", "fix one of the two", "RANK")
    return {name: value for name, value in {"LOCAL_RANK": "0", **found}.items() if name not in environment}


def _from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """What srun says. Empty outside of SLURM, and in an allocation of one task."""
    rank = environment.get("SLURM_PROCID", "")
    size = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "")
    if not (rank.isdecimal() and size.isdecimal()) or (rank == "0" and size == "1"):
        return {}
    found = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": environment.get("SLURM_LOCALID", "")}
    if "SLURM_STEP_NUM_TASKS" in environment:  # started by srun; a batch script itself has the numbers of the whole job
        found["MASTER_ADDR"] = _first_host(environment.get("SLURM_STEP_NODELIST", ""))
        found["LOCAL_WORLD_SIZE"] = _tasks_here(environment)
        job = environment.get("SLURM_JOB_ID", "")
        if job.isdecimal():  # all tasks of a step come to the same port, below those that systems give out themselves
            step = environment.get("SLURM_STEP_ID", "0")
            found["MASTER_PORT"] = str(15000 + (int(job) + 97 * int(step if step.isdecimal() else 0)) % 15000)
    return {name: value for name, value in found.items() if value}


def _first_host(nodes: str) -> str:
    """`node3` of `node[3-5,9],gpu1`."""
    match = _HOSTS.match(nodes)
    return f"{match[1]}{match[2] or ''}" if match else ""


def _tasks_here(environment: Mapping[str, str]) -> str:
    """This node's part of `4(x2),1`, tasks by node."""
    counts = _TASKS_PER_NODE.findall(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    by_node = [count for count, times in counts for _ in range(int(times or 1))]
    node = environment.get("SLURM_NODEID", "0")
    return by_node[int(node)] if node.isdecimal() and int(node) < len(by_node) else ""


def _from_mpi(environment: Mapping[str, str]) -> dict[str, str]:
    """What mpirun says. Empty for one process."""
    for names in _MPI:
        found = {
            ours: environment[theirs]
            for ours, theirs in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), names, strict=True)
            if environment.get(theirs)
        }
        if "RANK" in found and found.get("WORLD_SIZE", "1") != "1":
            return found
    return {}


def _number(known: Mapping[str, str], name: str, lowest: int = 0) -> int | None:
    text = known.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) >= lowest):
        raise UserError(
            "MSA-DIST-402",
            f"{name} is '{text[:50]}', expected a number from {lowest} on; fix what starts this process, or unset it",
            setting=name,
        )
    return int(text)


def _check_port(known: Mapping[str, str]) -> None:
    port = known.get("MASTER_PORT")
    if port is not None and not (port.isascii() and port.isdecimal() and int(port) in _PORTS):
        message = (
            f"MASTER_PORT is '{port[:50]}', expected a port from 1 to 65535; fix it, or unset it for a single process"
        )
        raise UserError("MSA-DIST-402", message, setting="MASTER_PORT")


def _incomplete(found: str, advice: str, name: str) -> UserError:
    return UserError("MSA-DIST-401", f"{found}; {advice}", setting=name)
