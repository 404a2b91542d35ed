"""Codes of errors in commands and their options."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {
    "MSA-CLI-001": Entry(
        "The command line has an unknown option, lacks a required one, or gives one a value that it does not take.",
        "See the command's --help.",
    ),
    "MSA-CLI-002": Entry(
        "There is no command or dataset of this name.",
        "`msanet --help` lists all commands, `msanet pack --help` all datasets.",
    ),
    "MSA-CLI-003": Entry("The value of an option is out of its range.", "Choose a value in the range that is named."),
    "MSA-CLI-004": Entry(
        "The folder given as --run is not a run folder: it has no config.yaml.", "Give the run.dir of a training."
    ),
    "MSA-CLI-005": Entry(
        "The run has no complete checkpoint yet.",
        "Train until the first checkpoint is saved (trainer.checkpoint_every_steps).",
    ),
    "MSA-CLI-006": Entry(
        "Two options exclude each other, or one is of no use without another.",
        "Remove one of them, or add the one that is named.",
    ),
    "MSA-CLI-007": Entry(
        "The command needs a setting or option that is not given.",
        "Give it on the command line, or in the config file.",
    ),
    "MSA-CLI-008": Entry(
        "The path given as --out exists and is a file where a folder is expected, a folder where a file is, or the input.",
        "Choose another --out.",
    ),
    "MSA-CLI-009": Entry(
        "What is given as --images does not exist, has no images or videos, or is a pattern with .. after a wildcard.",
        "Check the path; put patterns in quotes.",
    ),
    "MSA-CLI-010": Entry(
        "Two results would have the same name, or a result would replace an image that is to be predicted.",
        "Predict the files in two commands, or choose another --out.",
    ),
    "MSA-CLI-011": Entry(
        "The file given as --deepspeed_config does not exist or is not a JSON object.", "Fix the path or the file."
    ),
    "MSA-CLI-012": Entry("--write names an unknown kind of output.", "Choose from the kinds that are listed."),
    "MSA-CLI-013": Entry("The sweep has no results yet.", "Run the sweep first, without --train-best."),
    "MSA-CLI-014": Entry(
        "The failure dump has no batches of this rank.", "Choose one of the ranks that are listed, or omit --rank."
    ),
    "MSA-CLI-015": Entry(
        "A step of the demo failed.", "Fix what it reports, then run msanet demo again: it continues with that step."
    ),
    "MSA-CLI-016": Entry(
        "The run has no evaluation, or several where one is expected.",
        "Run msanet evaluate, or choose a split with --split.",
    ),
    "MSA-CLI-017": Entry(
        "--merge is malformed, or names a group twice.", "Write --merge NAME=CLASS,CLASS once a group."
    ),
    "MSA-CLI-401": Entry(
        "The shards that a run was trained on are not where its config.yaml says.", "Give their new place with --data."
    ),
}
