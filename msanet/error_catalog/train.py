"""Codes of errors in training."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {
    "MSA-TRAIN-001": Entry(
        "More samples could not be read than `data.max_bad_fraction` allows.",
        "Run `msanet verify` on the shards, and copy or pack the damaged ones again.",
    ),
    "MSA-TRAIN-002": Entry(
        "Too many steps in a row had a loss or gradients that are not finite.",
        "Run the `msanet replay` command that the message names to find the module and sample; often a lower "
        "`optimizer.lr` helps.",
    ),
    "MSA-TRAIN-003": Entry("The folder is not a failure dump.", "Give RUN/failure_dump/step-N of a run."),
    "MSA-TRAIN-004": Entry("A failure dump is incomplete or damaged.", "Use another one; this one cannot be replayed."),
    "MSA-TRAIN-005": Entry(
        "Not even one image fits into the memory of a rank.", "Apply one of the settings that the message suggests."
    ),
    "MSA-TRAIN-006": Entry(
        "`trainer.micro_batch_size=auto` cannot be estimated, since images have no fixed size.",
        "Set `data.crop` or `data.resize`, or give a number.",
    ),
    "MSA-TRAIN-007": Entry(
        "`trainer.compile=true` finds no compiler.",
        "Install g++ or clang, name it in CXX (GPU: CC), or turn compiling off.",
    ),
    "MSA-TRAIN-008": Entry(
        "The network has no attention that ranks could divide.", "Set `trainer.context_parallel_size=1`."
    ),
    "MSA-TRAIN-009": Entry(
        "Context parallel attention and windowed attention exclude one another.",
        "Set `trainer.context_parallel_size=1` or `model.attention_window=0`.",
    ),
    "MSA-TRAIN-010": Entry(
        "A key of DeepSpeed's own configuration is derived from a setting of ours.",
        "Remove it and use the setting that is named.",
    ),
    "MSA-TRAIN-012": Entry(
        "A failure dump has the format of another version of msanet.", "Replay it with the version that wrote it."
    ),
    "MSA-TRAIN-011": Entry("DeepSpeed rejects its configuration.", "Fix or remove the key that it names."),
    "MSA-TRAIN-401": Entry(
        "This training stood still for so long (a paused container, a host without network) that another one has taken its "
        "run.dir over.",
        "Nothing to do, if the other one is meant to train; it resumes from the last checkpoint.",
    ),
    "MSA-TRAIN-402": Entry(
        "No pixel of the training split can count in the loss: all are ignored, or `loss.class_weights` is 0 for all classes "
        "that occur.",
        "Check the labels with `msanet inspect`, and pack them again or change the weights.",
    ),
    "MSA-TRAIN-403": Entry(
        "DeepSpeed's own settings have a name that DeepSpeed does not know, and would ignore.",
        "Fix the name, or remove it.",
    ),
}
