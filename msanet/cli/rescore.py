"""`msanet rescore`: the metrics of an evaluation by another protocol or with merged classes, with intervals."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from msanet.cli.counts import METRIC_NAMES, counted_images, counts_parser, read_counts, resampling_note
from msanet.cli.output import bounds, interval_text, percent, print_result
from msanet.cli.parser import parse
from msanet.evaluation.protocols import NAMED, NamedScores, Protocol, compute_scores
from msanet.evaluation.statistics import bootstrap, dice


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = counts_parser("rescore", "rescore RUN --merge vehicle=car,truck,bus")
    parser.add_argument("--protocol", choices=get_args(Protocol), default="default", help="whose rules")
    args = parse(parser, argv)
    result = rescore(args)
    print_result(result if args.json else _rescore_table(result))
    return 0


def rescore(args: argparse.Namespace) -> dict[str, Any]:
    """The metrics of one evaluation by any protocol or merge of classes, with intervals."""
    records = read_counts(args.run, args)
    protocol_scores = compute_scores(records.total(), records.classes, args.protocol, records.instances)
    scores, intervals = protocol_scores.scores, bootstrap(records, args.resamples, args.seed)
    if args.protocol == "official-voc":  # whose mean is another where a resample lacks a class
        mean = intervals.metrics["mean_iou"]
        intervals.metrics["mean_iou"] = replace(mean, low=math.nan, high=math.nan)
    dice_K, classes = dice(records.class_counts().sum()), {}
    for k, (name, interval) in enumerate(intervals.iou.items()):
        classes[name] = {"iou": scores.iou_K[k], "interval": bounds(interval), "accuracy": scores.accuracy_K[k]}
        classes[name] |= {"dice": dice_K[k], "support": scores.support_K[k]}
    metrics = {name: {"value": getattr(scores, name), "interval": bounds(i)} for name, i in intervals.metrics.items()}
    return {
        **counted_images(records, args),
        "protocol": args.protocol,
        "metrics": metrics,
        "classes": classes,
        **{name: asdict(named) for name in NAMED if isinstance(named := getattr(protocol_scores, name), NamedScores)},
        "notes": scores.notes,
    }


def _rescore_table(result: dict[str, Any]) -> str:
    lines = [f"{'class':<20} {'IoU':>7} {'95 % interval':>18} {'accuracy':>9} {'Dice':>7} {'pixels':>14}"]
    for name, row in result["classes"].items():
        lines.append(
            f"{name:<20} {percent(row['iou']):>7} {interval_text(row['interval']):>18} {percent(row['accuracy']):>9} "
            f"{percent(row['dice']):>7} {row['support']:>14,}"
        )
    for field, what in NAMED.items():
        if field in result:
            lines += ["", f"{what:<20} {percent(result[field]['mean']):>7} (mean)"]
            lines += [f"{name:<20} {percent(value):>7}" for name, value in result[field]["values"].items()]
    lines.append("")
    for name, row in result["metrics"].items():
        lines.append(f"{METRIC_NAMES[name]:<24} {percent(row['value']):>7}   {interval_text(row['interval'])}")
    return "\n".join([*lines, f"protocol {result['protocol']}", resampling_note(result), *result["notes"]])
