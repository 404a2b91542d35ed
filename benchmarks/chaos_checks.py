"""The data of chaos.py, and the check that its run equals the one that nobody disturbed."""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from msanet.data.manifest import load_manifest, load_shard_index
from msanet.evaluation.run_report import read_lines
from msanet.models import build_model
from msanet.run_layout import RunLayout
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.checkpoint.io import checkpoint_folders, read_checkpoint, validate_checkpoint
from sharding.__main__ import main as shard

IMAGES, BATCH = 26, 6
"""Samples of the training split and of a step, which no usual number of ranks and no epoch's end fits."""
TOLERANCE = 2e-3
"""Of another number of ranks: distance of the weights over the way that training went. A change of 1e-7 in the first weights
becomes 1e-5 in 72 steps and 6e-4 in 1,230."""


def write_shards(folder: Path) -> tuple[Path, Path, dict[int, str]]:
    """Two copies of a small dataset, the second with damaged samples; their numbers and keys."""
    rng = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 5)):
        for kind in (split, f"{split}annot"):
            (folder / "source" / kind).mkdir(parents=True)
        for number in range(count):
            label = cv2.resize(rng.integers(0, 11, (4, 5), dtype=np.uint8), (44, 36), interpolation=cv2.INTER_NEAREST)
            image = np.stack([label * 20] * 3, axis=-1) + rng.integers(0, 30, (36, 44, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / "source" / split / f"{split}_{number:03d}.png"), image)
            cv2.imwrite(str(folder / "source" / f"{split}annot" / f"{split}_{number:03d}.png"), label)
    whole, broken = folder / "shards", folder / "damaged-shards"
    words = ["--source", str(folder / "source"), "--out", str(whole), "--shard-bytes", "30000", "--workers", "1"]
    assert shard(["camvid", *words]) == 0
    shutil.copytree(whole, broken)
    shards = load_manifest(broken).split("train").shards
    damaged, before = {}, shards[0].samples
    index = load_shard_index(broken, shards[1].file)
    data = bytearray((broken / shards[1].file).read_bytes())
    for place in (0, 2):
        member = index.samples[place].members[0]
        data[member.offset + member.length // 2] ^= 1
        damaged[before + place] = index.samples[place].key
    (broken / shards[1].file).write_bytes(data)
    return whole, broken, damaged


def check(run: Path, reference: Path, steps: int, keys: dict[int, str], bitwise: bool) -> dict[str, str]:
    """What was checked, and what was lost: an empty text where nothing was."""
    checks = check_samples(run, reference, steps) | check_metrics(run, reference, bitwise)
    if keys:
        checks["skipped are the damaged ones"] = check_skipped_samples(run, reference, keys)
    return checks | compare_checkpoints(newest(run), newest(reference), bitwise)


def check_samples(run: Path, reference: Path, steps: int) -> dict[str, str]:
    """Which samples were taken, by the run's own record; the reference run's says in which order."""
    seen, wanted = records(run), records(reference)
    times = Counter(pair for pairs in seen.values() for pair in pairs)
    whole_epochs = {(epoch, number) for epoch in range(steps * BATCH // IMAGES) for number in range(IMAGES)}
    twice, never = [pair for pair, count in times.items() if count > 1], sorted(whole_epochs - times.keys())
    other = [step for step in range(1, steps + 1) if step not in seen or seen[step] != wanted.get(step)]
    return {
        "each (epoch, sample) at most once": listed(twice),
        "each (epoch, sample) at least once": listed(never),
        "each step took its samples": listed(other),
    }


def check_metrics(run: Path, reference: Path, bitwise: bool) -> dict[str, str]:
    """metrics.jsonl: each step and each validation once, in order; the same losses where they have to be."""
    lines, wanted = (read_lines(RunLayout(folder).metrics) for folder in (run, reference))
    checks = {}
    for what, key in (("step", "loss"), ("validation", "val/mean_iou")):
        ours, theirs = ([line["step"] for line in found if key in line] for found in (lines, wanted))
        checks[f"each {what} logged once"] = (
            "" if ours == theirs else listed(sorted(set(ours) ^ set(theirs))) or "order"
        )
    if bitwise:
        ours, theirs = ([line["loss"] for line in found if "loss" in line] for found in (lines, wanted))
        checks["losses bit-identical"] = listed(
            [n for n, (a, b) in enumerate(zip(ours, theirs, strict=False), 1) if a != b]
        )
    return checks


def check_skipped_samples(run: Path, reference: Path, keys: dict[int, str]) -> str:
    """Whether the samples that were skipped are those of damaged bytes, each as often as it came."""
    skipped = Counter(
        (line["step"], key)
        for file in run.glob("bad-samples-*.jsonl")
        for line in read_lines(file)
        for key in re.findall(r"train_\d+", line["fault"])[:1]
    )
    damaged = Counter(
        (step, keys[number]) for step, pairs in records(reference).items() for _, number in pairs if number in keys
    )
    return listed(sorted((skipped - damaged) + (damaged - skipped)))


def records(run: Path) -> dict[int, list[tuple[int, int]]]:
    """(epoch, sample) of each step, in the order of ranks."""
    found: dict[int, list[tuple[int, int]]] = {}
    for file in sorted(run.glob("samples-*.jsonl")):
        for line in read_lines(file):
            found.setdefault(line["step"], []).extend(zip(line["epochs"], line["samples"], strict=True))
    return found


def newest(run: Path) -> Checkpoint:
    """The last checkpoint of a run, which must be complete."""
    folder = checkpoint_folders(run / "checkpoints")[0]
    assert validate_checkpoint(folder) is None, folder
    return read_checkpoint(folder)


def compare_checkpoints(ours: Checkpoint, reference: Checkpoint, bitwise: bool) -> dict[str, str]:
    """The end of the run against that of the reference run."""
    if not bitwise:
        torch.manual_seed(0)  # run.seed
        start = dict(
            build_model(ours.metadata.name, len(ours.metadata.classes), **ours.metadata.options).named_parameters()
        )
        away = sum(float((ours.weights[name] - reference.weights[name]).double().square().sum()) for name in start)
        way = sum(
            float((reference.weights[name] - value).detach().double().square().sum()) for name, value in start.items()
        )
        ratio = (away / way) ** 0.5
        return {f"weights within {TOLERANCE:g} of the way ({ratio:.1e})": "" if ratio < TOLERANCE else f"{ratio:.2g}"}
    optimizers = (
        {f"{name}/{key}": t for name, state in c.optimizer.items() for key, t in state.items()}
        for c in (ours, reference)
    )
    parts = {
        "weights": (ours.weights, reference.weights),
        "averaged weights": (ours.ema or {}, reference.ema or {}),
        "optimizer": tuple(optimizers),
        "generators": (ours.rng, reference.rng),
    }
    differing = {
        what: [name for name in b if name not in a or not torch.equal(a[name], b[name])]
        for what, (a, b) in parts.items()
    }
    state, wanted = ours.state.model_dump(), reference.state.model_dump()
    other = [name for name in wanted if state[name] != wanted[name]]
    return {f"{what} bit-identical": listed(names) for what, names in differing.items()} | {
        "state equal": listed(other)
    }


def listed(things: list[Any]) -> str:
    """A few of them and how many there are; empty where there are none."""
    return f"{len(things)}: {', '.join(map(str, things[:4]))}" if things else ""
