"""Every error code with its cause and its fix, by area; docs/errors.md is generated from this."""

from msanet.error_catalog import (
    checkpoint,
    cli,
    config,
    data,
    demo,
    distributed,
    evaluation,
    files,
    inference,
    model,
    pack,
    sweep,
    train,
)
from msanet.error_catalog.entry import Entry

AREAS = {
    "MSA-CLI": ("Commands and their options", cli.ENTRIES),
    "MSA-CONFIG": ("Settings, recipes and their files", config.ENTRIES),
    "MSA-FILE": ("Files and folders", files.ENTRIES),
    "MSA-PACK": ("Datasets on disk, packing and verifying shards", pack.ENTRIES),
    "MSA-DATA": ("Reading shards", data.ENTRIES),
    "MSA-MODEL": ("Networks and weights", model.ENTRIES),
    "MSA-TRAIN": ("Training", train.ENTRIES),
    "MSA-CKPT": ("Checkpoints and resuming", checkpoint.ENTRIES),
    "MSA-DIST": ("Ranks, hosts and launchers", distributed.ENTRIES),
    "MSA-EVAL": ("Evaluation and statistics", evaluation.ENTRIES),
    "MSA-INFER": ("Prediction and export", inference.ENTRIES),
    "MSA-SWEEP": ("Sweeps", sweep.ENTRIES),
    "MSA-DEMO": ("The demo page", demo.ENTRIES),
}
"""Prefix -> (title, entries by code)."""

CATALOG: dict[str, Entry] = {code: entry for _, entries in AREAS.values() for code, entry in entries.items()}
