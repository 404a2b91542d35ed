"""`msanet compare`: two evaluations on the same images, the second minus the first, with intervals."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from msanet.cli.counts import METRIC_NAMES, counted_images, counts_parser, read_counts, resampling_note
from msanet.cli.output import bounds, interval_text, percent, print_result, signed
from msanet.cli.parser import parse
from msanet.evaluation.statistics import Difference, paired_difference


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parse(counts_parser("compare", "compare RUN RUN2", other=True), argv)
    result = compare(args)
    print_result(result if args.json else _compare_table(result))
    return 0


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Two runs on the same images: the second minus the first."""
    first, second = read_counts(args.run, args), read_counts(args.run2, args)
    comparison = paired_difference(first, second, args.resamples, args.seed)
    return {
        **counted_images(first, args),
        "runs": [str(args.run), str(args.run2)],
        "metrics": {name: _difference(row) for name, row in comparison.metrics.items()},
        "classes": {name: _difference(row) for name, row in comparison.iou.items()},
        "notes": comparison.notes,
    }


def _compare_table(result: dict[str, Any]) -> str:
    lines = [
        f"first  {result['runs'][0]}",
        f"second {result['runs'][1]}",
        "",
        f"{'':<24} {'first':>7} {'second':>7} {'difference':>10} {'95 % interval':>18} {'above 0':>8}",
    ]
    rows = {**{METRIC_NAMES[name]: row for name, row in result["metrics"].items()}, **result["classes"]}
    for name, row in rows.items():
        lines.append(
            f"{name:<24} {percent(row['first']):>7} {percent(row['second']):>7} {signed(row['difference']):>10} "
            f"{interval_text(row['interval'], signed):>18} {percent(row['share_above']):>8}"
        )
    lines += [
        "difference: second minus first, in percentage points; above 0: share of resamples in which the second is better",
        resampling_note(result),
        "The interval is over images, for these two networks: it does not cover another seed of training.",
        *result["notes"],
    ]
    return "\n".join(lines)


def _difference(row: Difference) -> dict[str, Any]:
    return asdict(row) | {"difference": row.difference.value, "interval": bounds(row.difference)}
