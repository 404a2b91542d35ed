"""Which rank this process is, as the launcher (`deepspeed`, torchrun, SLURM, or none) says in the environment."""

import os
import socket

from msanet.distributed.launcher_environment import resolve_rank


def rank() -> int:
    """This process's number in the job, 0-based; readable before `session` too."""
    return int(os.environ.get("RANK") or 0)


def world_size() -> int:
    """Number of ranks of the job."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def local_rank() -> int:
    """This process's number on its host; which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def local_world_size() -> int:
    """Number of ranks on this host."""
    return int(os.environ.get("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", world_size())))


def is_main() -> bool:
    """Whether this is rank 0, which logs and writes for all."""
    return rank() == 0


def set_default_environment() -> list[str]:
    """Set what the launcher has not set: srun and mpirun have other names, a plain process has none.

    Returns:
        The names of these variables.

    Raises:
        UserError: This is one process of several, but the others cannot be found.
    """
    added = resolve_rank(os.environ, free_port())
    os.environ.update(added)
    return list(added)


def free_port() -> int:
    """A TCP port of this host that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
