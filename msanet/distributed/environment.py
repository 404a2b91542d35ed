"""Which rank this process is, as the launcher (`deepspeed`, torchrun, SLURM, or none) says in the environment."""

import os
import socket


def rank() -> int:
    """This process's number in the job, 0-based; readable before `session` too."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of ranks of the job."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """This process's number on its host; which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Number of ranks on this host."""
    return int(os.environ.get("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", world_size())))


def is_main() -> bool:
    """Whether this is rank 0, which logs and writes for all."""
    return rank() == 0


def set_default_environment() -> list[str]:
    """Set what a plain `python launcher/train.py` lacks of what launchers set. Returns the names of these variables."""
    if "MASTER_PORT" in os.environ:
        return []
    own = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    added = [name for name in own if name not in os.environ]
    os.environ.update(own)
    return added


def free_port() -> int:
    """A TCP port of this host that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
