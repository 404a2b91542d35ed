"""Codes of errors of ranks, hosts and launchers."""

from msanet.error_catalog.entry import Entry

_RESUME = "Run the same command again to resume from the last checkpoint."

ENTRIES: dict[str, Entry] = {
    "MSA-DIST-001": Entry(
        "A host has more ranks than GPUs that they see.",
        "Start fewer ranks, or let every rank see all GPUs of its host (SLURM: --gpus-per-node).",
    ),
    "MSA-DIST-002": Entry(
        "The port on which rank 0 keeps the job's store is in use, probably by another training.",
        "Add --master_port with another number to the deepspeed command. A later start may find it free: exit code 1.",
    ),
    "MSA-DIST-003": Entry(
        "The store of the job, on rank 0's host, could not be reached within run.rendezvous_timeout_seconds.",
        "Start all ranks, and let the hosts reach that port (firewall, GLOO_SOCKET_IFNAME).",
    ),
    "MSA-DIST-004": Entry(
        "Some ranks did not join within run.rendezvous_timeout_seconds.",
        "Check the hosts that should have started them, or raise the setting where they start slowly.",
    ),
    "MSA-DIST-005": Entry("Rank 0 ended before all ranks had joined.", "See the log of rank 0 for the reason."),
    "MSA-DIST-006": Entry(
        "A rank sent no heartbeat for run.heartbeat_timeout_seconds: its process has stopped, or its host or the network is "
        "down.",
        _RESUME,
    ),
    "MSA-DIST-007": Entry(
        "A rank is alive but made no progress for run.stall_timeout_seconds: a slow storage, a stalled loader, or a step that "
        "takes so long.",
        "Check the storage of that rank, or raise run.stall_timeout_seconds; then run the same command again to resume.",
    ),
    "MSA-DIST-008": Entry("A rank was killed, by a person or for lack of memory, or its host is down.", _RESUME),
    "MSA-DIST-009": Entry(
        "A collective failed although no rank is known to be lost, such as by a network that failed for a moment.",
        "Check the network between the hosts, then run the same command again to resume.",
    ),
    "MSA-DIST-010": Entry(
        "A rank ended with an unexpected exception, which its traceback shows.",
        "Fix what the traceback shows, or report it if it is in msanet.",
    ),
    "MSA-DIST-011": Entry(
        "A run that was asked to stop could not save within run.preemption_grace_seconds.",
        "Raise run.preemption_grace_seconds, below the scheduler's own limit.",
    ),
    "MSA-DIST-012": Entry("The launcher that started the rank is gone.", _RESUME),
    "MSA-DIST-013": Entry(
        "A rank cannot be restarted, since its supervisor was killed or its host is down.",
        "Start the job again on hosts that are up; it resumes from the last checkpoint.",
    ),
    "MSA-DIST-401": Entry(
        "The environment is that of one process of several (RANK, WORLD_SIZE, or the variables of srun or mpirun), but lacks "
        "what it takes to find the others.",
        "Set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each process, or start them by deepspeed, torchrun or srun; for "
        "one process by itself, set RANK=0 WORLD_SIZE=1.",
    ),
    "MSA-DIST-402": Entry(
        "A variable of the launcher, such as RANK or MASTER_PORT, is empty or not a number in its range.",
        "Fix what starts the process, or unset the variable.",
    ),
}
