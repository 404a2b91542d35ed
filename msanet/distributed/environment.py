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


def is_main() -> bool:
    """Rank 0 speaks, logs and writes; the others are silent."""
    return rank() == 0


def set_default_environment() -> None:
    """What a plain `python launcher/train.py` lacks of what launchers set."""
    if "MASTER_PORT" not in os.environ:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
        )


def free_port() -> int:
    """A TCP port of this host that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
