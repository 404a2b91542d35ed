"""What the order costs each loader process at 100 million samples, against a shuffled list of all samples.

    python benchmarks/order.py [--json FILE]

20,000 shards of 5,000 samples, 4,096 ranks with 8 loader processes each, 4 samples a micro-batch. Every subject runs in a
fresh process of its own; memory is the peak of that process above one that only imports. Then what a loader process
holds besides: the manifest, and the indexes of the shards that it reads. Bars: 2 s to build an epoch and find any
position in it, 200 MB a process for everything, 1 ms to the next micro-batch. Linux only (memory is read from /proc).
"""

import argparse
import json
import pickle
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, print_table, seconds_of, write_json  # noqa: E402

SHARDS, SHARD_SAMPLES, SHARD_BYTES = 20_000, 5_000, 400 * 2**20
SAMPLES = SHARDS * SHARD_SAMPLES
RANKS, WORKERS, MICRO_BATCH = 4096, 8, 4
GLOBAL_BATCH = RANKS * MICRO_BATCH
BARS = {"build an epoch and find a position (s)": 2.0, "memory of a loader process (MB)": 200.0, "next micro-batch (us)": 1e3}
PEERS = ("numpy permutation of all samples", "torch.randperm of all samples")


def main() -> int:
    """Measure, print and compare with the bars; exit code 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of the order and its peers (default 3)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--subject", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)  # what a child does
    args = parser.parse_args()
    if args.subject:
        name, folder = args.subject
        print(json.dumps({**SUBJECTS[name](Path(folder)), "peak_MB": peak_megabytes()}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        orders = measure_orders(folder, args.rounds)
        holds = measure_worker(folder)
    reached = dict(
        zip(
            BARS,
            (orders["ours"]["find_s"], holds["order, manifest and indexes"]["peak_MB"], orders["ours"]["next_median_us"]),
            strict=True,
        )
    )
    print_orders(orders)
    print_table(
        ("one loader process", "MB above its imports", *(title for title in holds["order, manifest and indexes"])[:0]),
        [],
    )
    print_table(("bar", "at most", "reached"), [(name, bar, reached[name]) for name, bar in BARS.items()])
    write_json(args.json, {"orders": orders, "holds": holds, "reached": reached, "bars": BARS})
    return 0 if all(reached[name] <= bar for name, bar in BARS.items()) else 1
