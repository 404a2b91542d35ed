"""What crops towards rare classes and copy-paste are worth to rare classes, and cost the others: paired by seed.

    python benchmarks/rare_classes.py --shards SHARDS --out FOLDER [--config RECIPE] [--seeds 0 1 2 3 4] [--json FILE]
        [--launch "deepspeed --num_gpus 8"] [--minutes N] [key=value ...]

Shards with a long tail come from `msanet generate` and `msanet pack cityscapes`. Rare is, as for `data.copy_paste`, a class with
fewer pixels in the training split than the median class. Each variant and seed is one run in FOLDER/NAME-SEED; the same command
again goes on where it was stopped. Intervals are Student's, 95 %, of the differences to the plain recipe over seeds.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from convergence import ROOT, command, folder, interval, train, with_run_options  # noqa: E402
from harness import print_table, write_json  # noqa: E402

from msanet.data.manifest import load_manifest  # noqa: E402
from msanet.data.mixing import rare_classes  # noqa: E402
from msanet.run_layout import RunLayout  # noqa: E402

VARIANTS = {
    "plain": [],
    "rare_class_crops=0.5": ["data.rare_class_crops=0.5"],
    "copy_paste=0.5": ["data.copy_paste=0.5"],
    "both": ["data.rare_class_crops=0.5", "data.copy_paste=0.5"],
}
Figures = dict[str, list[dict[str, float]]]


def main() -> int:
    """Train what is missing, print the table. 75 where time was up before all runs were done, else a failed run's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="made by msanet pack")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--config", type=Path, default=ROOT / "jobs/recipes/demo.yaml", help="recipe (default: demo)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    args = with_run_options(parser).parse_intermixed_args()
    deadline = time.monotonic() + 60 * args.minutes
    args.shards = args.shards.resolve()
    manifest = load_manifest(args.shards)
    rare = [manifest.classes[number] for number in rare_classes(tuple(manifest.split("train").histogram))]
    figures: Figures = {name: [] for name in args.variants}
    for seed in args.seeds:  # seeds outside, so that an early end leaves whole comparisons
        for name in args.variants:
            run = folder(args.out, name, seed)
            code = train(command(args, run, seed, VARIANTS[name]), deadline)
            if code:
                return code
            figures[name].append(ious(RunLayout(run).evaluation("val"), rare) | {"seed": seed})
            write_json(args.json, {"command": shlex.join(sys.argv), "rare": rare, "runs": figures})
    print(f"rare: {', '.join(rare)}")
    print_table(("", "seeds", "rare", "to plain", "others", "to plain", "all", "to plain"), rows(figures))
    return 0


def ious(result: Path, rare: list[str]) -> dict[str, float]:
    """Mean IoU in percent of the rare classes, the others and all; a class that does not occur does not count."""
    classes = {name: scores["iou"] for name, scores in json.loads(result.read_text())["classes"].items()}
    known = {name: 100 * iou for name, iou in classes.items() if iou is not None}
    groups = {
        "rare": [iou for name, iou in known.items() if name in rare],
        "others": [iou for name, iou in known.items() if name not in rare],
    }
    return {"all": statistics.fmean(known.values())} | {kind: statistics.fmean(found) for kind, found in groups.items()}


def rows(figures: Figures) -> list[tuple[object, ...]]:
    """The table: means with intervals, and those of the differences to the first variant."""
    table, (first, *_) = [], figures.values()
    for name, runs in figures.items():
        cells: list[object] = [name, len(runs)]
        for kind in ("rare", "others", "all"):
            differences = [run[kind] - other[kind] for run, other in zip(runs, first, strict=True)]
            cells += [interval([run[kind] for run in runs]), interval(differences) if runs is not first else ""]
        table.append(tuple(cells))
    return table


if __name__ == "__main__":
    sys.exit(main())
