"""`python -m msanet.evaluation rescore|compare|worst RUN`: figures of an evaluation that is over, without inference.

RUN is a run folder or its `evaluation-<split>.npz`, the counts of every image that launcher/evaluate.py leaves there.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np

from msanet.errors import UserError, user_errors
from msanet.evaluation.per_image_counts import (
    PerImageCounts,
    merge_classes,
    per_image_counts_file,
    read_per_image_counts,
)
from msanet.evaluation.protocols import NAMED, NamedScores, Protocol, compute_scores
from msanet.evaluation.statistics import (
    METRICS,
    RESAMPLES,
    Difference,
    Interval,
    bootstrap,
    dice,
    paired_difference,
    worst,
)

FIGURE_NAMES = dict(zip(METRICS, ("mIoU", "mean accuracy", "pixel accuracy", "frequency-weighted IoU"), strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code.

    Raises SystemExit(2) after one sentence on stderr where the input is at fault.
    """
    with user_errors():
        args = _parser().parse_args(argv)
        result = args.command(args)
        print(json.dumps(_plain(result), indent=1, allow_nan=False) if args.json else args.table(result))
    return 0


def rescore(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one evaluation by any protocol or merge of classes, with intervals."""
    records = _records(args.run, args)
    protocol_scores = compute_scores(records.total(), records.classes, args.protocol, records.instances)
    scores, intervals = protocol_scores.scores, bootstrap(records, args.resamples, args.seed)
    if args.protocol == "official-voc":  # whose mean is another where a resample lacks a class
        mean = intervals.metrics["mean_iou"]
        intervals.metrics["mean_iou"] = replace(mean, low=math.nan, high=math.nan)
    per_class = zip(
        records.classes,
        scores.iou_K,
        intervals.iou.values(),
        scores.accuracy_K,
        dice(records.class_counts().sum()),
        scores.support_K,
        strict=True,
    )
    return {
        **_about(records, args),
        "protocol": args.protocol,
        "figures": {
            name: {"value": getattr(scores, name), "interval": _bounds(interval)}
            for name, interval in intervals.metrics.items()
        },
        "classes": {
            name: {"iou": iou, "interval": _bounds(interval), "accuracy": accuracy, "dice": dice, "support": support}
            for name, iou, interval, accuracy, dice, support in per_class
        },
        **{name: asdict(named) for name in NAMED if isinstance(named := getattr(protocol_scores, name), NamedScores)},
        "notes": scores.notes,
    }


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Two runs on the same images: the second minus the first."""
    first, second = _records(args.run, args), _records(args.run2, args)
    comparison = paired_difference(first, second, args.resamples, args.seed)
    return {
        **_about(first, args),
        "runs": [str(args.run), str(args.run2)],
        "figures": {name: _difference(row) for name, row in comparison.metrics.items()},
        "classes": {name: _difference(row) for name, row in comparison.iou.items()},
        "notes": comparison.notes,
    }


def worst_images(args: argparse.Namespace) -> dict[str, Any]:
    """The images that an evaluation is worst on."""
    records = _records(args.run, args)
    images = [asdict(image) for image in worst(records, args.count, args.by)]
    return {**_about(records, args, resampled=False), "by": args.by, "images": images}


def _about(records: PerImageCounts, args: argparse.Namespace, resampled: bool = True) -> dict[str, Any]:
    draws = {"resamples": args.resamples, "seed": args.seed} if resampled else {}
    return {"dataset": records.dataset, "split": records.split, "num_images": len(records), **draws}


def _rescore_table(result: dict[str, Any]) -> str:
    lines = [f"{'class':<20} {'IoU':>7} {'95 % interval':>18} {'accuracy':>9} {'Dice':>7} {'pixels':>14}"]
    for name, row in result["classes"].items():
        lines.append(
            f"{name:<20} {_percent(row['iou']):>7} {_range(row['interval']):>18} {_percent(row['accuracy']):>9} "
            f"{_percent(row['dice']):>7} {row['support']:>14,}"
        )
    for field, what in NAMED.items():
        if field in result:
            lines += ["", f"{what:<20} {_percent(result[field]['mean']):>7} (mean)"]
            lines += [f"{name:<20} {_percent(value):>7}" for name, value in result[field]["values"].items()]
    lines.append("")
    for name, row in result["figures"].items():
        lines.append(f"{FIGURE_NAMES[name]:<24} {_percent(row['value']):>7}   {_range(row['interval'])}")
    return "\n".join([*lines, f"protocol {result['protocol']}", _resampling(result), *result["notes"]])


def _compare_table(result: dict[str, Any]) -> str:
    lines = [
        f"first  {result['runs'][0]}",
        f"second {result['runs'][1]}",
        "",
        f"{'':<24} {'first':>7} {'second':>7} {'difference':>10} {'95 % interval':>18} {'above 0':>8}",
    ]
    rows = {**{FIGURE_NAMES[name]: row for name, row in result["figures"].items()}, **result["classes"]}
    for name, row in rows.items():
        lines.append(
            f"{name:<24} {_percent(row['first']):>7} {_percent(row['second']):>7} {_signed(row['difference']):>10} "
            f"{_range(row['interval'], _signed):>18} {_percent(row['share_above']):>8}"
        )
    lines += [
        "difference: second minus first, in percentage points; above 0: share of resamples in which the second is better",
        _resampling(result),
        "The interval is over images, for these two networks: it does not cover another seed of training.",
        *result["notes"],
    ]
    return "\n".join(lines)


def _worst_table(result: dict[str, Any]) -> str:
    width = max([len("image"), *(len(image["key"]) for image in result["images"])])
    lines = [f"{'image':<{width}} {'mIoU':>7} {'cost':>8}"]
    lines += [
        f"{image['key']:<{width}} {_percent(image['mean_iou']):>7} {image['cost']:>8.3%}" for image in result["images"]
    ]
    lines += [
        f"worst of {result['num_images']} images of '{result['split']}'",
        "mIoU: of the image alone, over the classes it is labelled with",
        "cost: what the mIoU of the split would gain if all of the image were right",
    ]
    return "\n".join(lines)


def _resampling(result: dict[str, Any]) -> str:
    return (
        f"{result['num_images']} images of '{result['split']}', drawn anew {result['resamples']} times (seed {result['seed']}) "
        "as if independent\nThose of one video or city are not, and the true interval is wider."
    )


def _records(run: Path, args: argparse.Namespace) -> PerImageCounts:
    records = read_per_image_counts(_file(run, args.split))
    return merge_classes(records, _groups(args.merge)) if args.merge else records


def _file(run: Path, split: str | None) -> Path:
    if run.suffix == ".npz" and not run.is_dir():
        return run
    if split:
        return per_image_counts_file(run, split)
    found = sorted(run.glob(per_image_counts_file(Path(), "*").name))
    if len(found) > 1:
        raise UserError(f"'{run}' holds {', '.join(path.name for path in found)}, expected one; choose with --split")
    if not found:
        raise UserError(
            f"'{run}' holds no evaluation-<split>.npz, expected a run that was evaluated; run launcher/evaluate.py"
        )
    return found[0]


def _groups(texts: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, _, members = text.partition("=")
        classes = [member.strip() for member in members.split(",")]
        if not name.strip() or not all(classes):
            raise UserError(f"--merge is '{text}', expected NAME=CLASS,CLASS such as vehicle=car,truck,bus; correct it")
        if name.strip() in groups:
            raise UserError(
                f"--merge names '{name.strip()}' twice, expected each group once; list all its classes in one"
            )
        groups[name.strip()] = classes
    return groups


def _difference(row: Difference) -> dict[str, Any]:
    return {
        "first": row.first,
        "second": row.second,
        "difference": row.difference.value,
        "interval": _bounds(row.difference),
        "share_above": row.share_above,
    }


def _bounds(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _plain(value: Any) -> Any:
    """What JSON has: numbers of Python, and null for NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.2f}"


def _range(bounds: list[float], form: Callable[[float], str] = _percent) -> str:
    return f"{form(bounds[0])} to {form(bounds[1])}"


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are our one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "python -m msanet.evaluation", description="Figures of an evaluation that is over, without inference."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    forms = {
        "rescore": (rescore, _rescore_table),
        "compare": (compare, _compare_table),
        "worst": (worst_images, _worst_table),
    }
    for name, (function, table) in forms.items():
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(command=function, table=table)
        command.add_argument("run", type=Path, metavar="RUN", help="run folder, or its evaluation-<split>.npz")
        if name == "compare":
            command.add_argument("run2", type=Path, metavar="RUN2", help="the run that is compared with it")
        command.add_argument("--split", help="split that was evaluated (default: the only one there)")
        command.add_argument(
            "--merge", action="append", metavar="NAME=CLASS,...", help="count these classes as one; may be repeated"
        )
        command.add_argument("--json", action="store_true", help="print JSON, fractions 0 to 1, instead of a table")
        if name == "worst":
            command.add_argument("--count", type=_at_least(1), default=10, help="how many images (default 10)")
            command.add_argument("--by", choices=("iou", "cost"), default="iou", help="order (default iou)")
            continue
        resamples = f"how often images are drawn anew (default {RESAMPLES})"
        command.add_argument("--resamples", type=_at_least(1), default=RESAMPLES, help=resamples)
        command.add_argument("--seed", type=_at_least(0), default=0, help="of the draws (default 0)")
        if name == "rescore":
            protocols = get_args(Protocol)
            command.add_argument("--protocol", choices=protocols, default="default", help="whose rules")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"found '{text}', expected a number of {least} or more; correct it")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
