"""What a checkpoint costs training: the pause, against writing it while all wait, and steps while it is written.

    python benchmarks/checkpoint.py --shards FOLDER [--network msanet] [--rounds N] [--json FILE]

FOLDER: shards of any dataset. One process, the network at full width with Adam, small crops so that steps are short.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_table, write_json  # noqa: E402

from msanet import distributed  # noqa: E402
from msanet.config import parse_config  # noqa: E402
from msanet.data.loader import plan_batches  # noqa: E402
from msanet.data.shard_source import read_manifest  # noqa: E402
from msanet.data.storage import open_storage  # noqa: E402
from msanet.models import build_model  # noqa: E402
from msanet.training.checkpoint.io import write_checkpoint  # noqa: E402
from msanet.training.run_folder import RunFolder  # noqa: E402
from msanet.training.trainer import Trainer  # noqa: E402


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="folder of shards")
    parser.add_argument("--network", default="msanet", help="model.name (default msanet)")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints of each kind")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    with distributed.exiting_session(distributed.Timeouts.scaled(600)), tempfile.TemporaryDirectory() as folder:
        figures = measure(args.shards, args.network, args.rounds, Path(folder))
        print_table(("what", "s", "steps"), [(name, s, s / figures["a step"]) for name, s in figures.items()])
        write_json(args.json, figures)


def measure(shards: str, network: str, rounds: int, folder: Path) -> dict[str, float]:
    """Medians in seconds, in turns: a step, a pause, writing while all wait, a step while a checkpoint is written."""
    tree: dict[str, Any] = {
        "run": {"dir": str(folder / "run")},
        "data": {"path": shards, "crop": [64, 64], "num_workers": 0},
        "model": {"name": network},
        "trainer": {"steps": 10_000, "global_batch_size": 2},
    }
    config = parse_config(tree, "benchmark")
    manifest = read_manifest(open_storage(shards, config.storage))
    torch.manual_seed(0)
    model = build_model(network, manifest.num_classes)
    trainer, run = Trainer(config, manifest, model, plan_batches(2, None, 1), None), RunFolder(config, manifest)
    stream = trainer.global_batches()

    def step() -> None:
        trainer.train_step(next(stream))

    step()
    seconds: dict[str, list[float]] = {"a step": [], "pause": [], "written while all wait": [], "a step meanwhile": []}
    for _ in range(rounds):
        seconds["a step"].append(timed(step))
        waited = timed(lambda: write_checkpoint(folder / "waited", trainer.checkpoint(), keep=1))
        seconds["written while all wait"].append(waited)
        with run:  # until it is on the disk
            seconds["pause"].append(timed(lambda: run.save(trainer.checkpoint())))
            seconds["a step meanwhile"].append(timed(step))
    size = sum(file.stat().st_size for file in (folder / "waited").rglob("*") if file.is_file())
    print(f"a checkpoint has {size / 1e6:.0f} MB", file=sys.stderr)
    return {name: statistics.median(found) for name, found in seconds.items()}


def timed(work: Any) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
