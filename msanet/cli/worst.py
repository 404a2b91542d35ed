"""`msanet worst`: the images with the lowest IoU of an evaluation."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from msanet.cli.counts import counted_images, counts_parser, read_counts
from msanet.cli.output import percent, print_result
from msanet.cli.parser import at_least, parse
from msanet.evaluation.statistics import worst


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = counts_parser("worst", "worst RUN --count 20", resamples=False)
    parser.add_argument("--count", type=at_least(1), default=10, help="how many images (default 10)")
    parser.add_argument("--by", choices=("iou", "cost"), default="iou", help="order (default iou)")
    args = parse(parser, argv)
    result = worst_images(args)
    print_result(result if args.json else _worst_table(result))
    return 0


def worst_images(args: argparse.Namespace) -> dict[str, Any]:
    """The images that an evaluation is worst on."""
    records = read_counts(args.run, args)
    images = [asdict(image) for image in worst(records, args.count, args.by)]
    return {**counted_images(records, args, resampled=False), "by": args.by, "images": images}


def _worst_table(result: dict[str, Any]) -> str:
    width = max([len("image"), *(len(image["key"]) for image in result["images"])])
    lines = [f"{'image':<{width}} {'mIoU':>7} {'cost':>8}"]
    for image in result["images"]:
        lines.append(f"{image['key']:<{width}} {percent(image['mean_iou']):>7} {image['cost']:>8.3%}")
    lines += [
        f"worst of {result['num_images']} images of '{result['split']}'",
        "mIoU: of the image alone, over the classes it is labeled with",
        "cost: what the mIoU of the split would gain if all of the image were right",
    ]
    return "\n".join(lines)
