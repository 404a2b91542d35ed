"""What rescore, compare and worst have in common: the counts of an evaluation that is over."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msanet.cli.parser import Parser, at_least, new_parser
from msanet.errors import UserError
from msanet.evaluation.per_image_counts import (
    PerImageCounts,
    merge_classes,
    read_per_image_counts,
)
from msanet.evaluation.statistics import METRICS, RESAMPLES
from msanet.run_layout import RunLayout

METRIC_NAMES = dict(zip(METRICS, ("mIoU", "mean accuracy", "pixel accuracy", "frequency-weighted IoU"), strict=True))
_DETAILS = """\
RUN is a run folder or its evaluation-<split>.npz, the counts of every image that msanet evaluate writes. No inference."""


def counts_parser(command: str, example: str, resamples: bool = True, other: bool = False) -> Parser:
    """The options of a command that reads counts. resamples: it draws intervals. other: it takes a second run."""
    parser = new_parser(command, example, _DETAILS)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or its evaluation-<split>.npz")
    if other:
        parser.add_argument("run2", type=Path, metavar="RUN2", help="the run that is compared with it")
    parser.add_argument("--split", help="split that was evaluated (default: the only one there)")
    merge = "count these classes as one; may be repeated"
    parser.add_argument("--merge", action="append", metavar="NAME=CLASS,...", help=merge)
    parser.add_argument("--json", action="store_true", help="print JSON, fractions 0 to 1, instead of a table")
    if resamples:
        draws = f"how often images are resampled for intervals (default {RESAMPLES})"
        parser.add_argument("--resamples", type=at_least(1), default=RESAMPLES, help=draws)
        parser.add_argument("--seed", type=at_least(0), default=0, help="of the resampling (default 0)")
    return parser


def read_counts(run: Path, args: argparse.Namespace) -> PerImageCounts:
    """The counts of a run, with --merge."""
    records = read_per_image_counts(_counts_file(run, args.split))
    return merge_classes(records, _groups(args.merge, records.classes)) if args.merge else records


def counted_images(records: PerImageCounts, args: argparse.Namespace, resampled: bool = True) -> dict[str, Any]:
    """Which images were counted, and how often they are resampled."""
    draws = {"resamples": args.resamples, "seed": args.seed} if resampled else {}
    return {"dataset": records.dataset, "split": records.split, "num_images": len(records), **draws}


def resampling_note(result: dict[str, Any]) -> str:
    """What the intervals are over, for people."""
    return (
        f"{result['num_images']} images of '{result['split']}', resampled {result['resamples']} times (seed {result['seed']}) "
        "as if independent\nThose of one video or city are not, and the true interval is wider."
    )


def _counts_file(run: Path, split: str | None) -> Path:
    if run.suffix == ".npz" and not run.is_dir():
        return run
    if split:
        return RunLayout(run).per_image_counts(split)
    found = sorted(run.glob(RunLayout(run).per_image_counts("*").name))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError("MSA-CLI-016", f"'{run}' has {names}, expected one; choose with --split", setting="--split")
    if not found:
        message = f"'{run}' has no evaluation-<split>.npz, expected a run that was evaluated; run msanet evaluate"
        raise UserError("MSA-CLI-016", message)
    return found[0]


def _groups(texts: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, _, members = text.partition("=")
        classes = _split_members(members, known)
        if not name.strip() or not all(classes):
            message = f"--merge is '{text}', expected NAME=CLASS,CLASS such as vehicle=car,truck,bus; fix it"
            raise UserError("MSA-CLI-017", message, setting="--merge")
        if name.strip() in groups:
            message = f"--merge names '{name.strip()}' twice, expected each group once; list all its classes in one"
            raise UserError("MSA-CLI-017", message, setting="--merge")
        groups[name.strip()] = classes
    return groups


def _split_members(text: str, known: Sequence[str]) -> list[str]:
    """`car,truck, large` -> [`car`, `truck, large`] where that is the name of a class."""
    words, members = text.split(","), list[str]()
    if all(word.strip() in known for word in words):
        return [word.strip() for word in words]
    while words:
        ends = (end for end in range(len(words), 0, -1) if ",".join(words[:end]).strip() in known)
        end = next(ends, 1)
        members.append(",".join(words[:end]).strip())
        words = words[end:]
    return members
