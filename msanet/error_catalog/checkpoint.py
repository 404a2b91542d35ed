"""Codes of errors of checkpoints and of resuming."""

from msanet.error_catalog.entry import Entry

_BEST = "Remove `--best` to use the latest checkpoint."

ENTRIES: dict[str, Entry] = {
    "MSA-CKPT-001": Entry("The run has no best checkpoint.", f"Train with `trainer.keep_best`. {_BEST}"),
    "MSA-CKPT-002": Entry("The pointer to the best checkpoint is damaged.", _BEST),
    "MSA-CKPT-003": Entry("The best checkpoint is damaged.", _BEST),
    "MSA-CKPT-004": Entry(
        "A checkpoint cannot be read: another version of msanet wrote it, or not all ranks see the disk.",
        "Use the version that wrote it, put run.dir on a shared disk, or choose another run.dir.",
    ),
    "MSA-CKPT-005": Entry(
        "A setting differs from the run that is to be resumed.",
        "Set it back, choose another run.dir, or allow the change with `run.allow_changes`.",
    ),
    "MSA-CKPT-006": Entry(
        "The dataset has another number of classes than the network in run.dir.",
        "Choose another run.dir, or another dataset.",
    ),
    "MSA-CKPT-007": Entry(
        "run.dir holds a run, and `run.resume=never` forbids resuming it.", "Choose another run.dir."
    ),
    "MSA-CKPT-008": Entry(
        "There is no valid checkpoint to resume from.",
        "Choose another run.dir, remove the damaged checkpoints, or set `run.resume=auto`.",
    ),
    "MSA-CKPT-401": Entry(
        "A run has done its last step, but the disk had no room for its last checkpoint.",
        "Free some space, then run the same command again: it resumes from the newest complete checkpoint.",
    ),
}
