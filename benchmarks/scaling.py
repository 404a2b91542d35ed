"""Weak scaling: DDP, and ours at ZeRO 0 to 3, on 1, 2 and 4 processes; and a model of up to 512 GPUs.

    python benchmarks/scaling.py [--ranks 1 2 4] [--size H W] [--batch N] [--width W] [--rounds N] [--json FILE]
    python benchmarks/scaling.py --model [--step-seconds S] [--bandwidth B] [--latency S] [--parameters N] [--messages N]

Each process has a GPU, or one thread of a CPU, and the same number of images, so that on ideal machines a step takes the same
time on any number of them. With more processes than cores or GPUs the figures say nothing. Efficiency is the speed on n
processes over n times that on the first number given, for each subject by itself.

--model measures nothing. It adds to a step of S seconds, on one GPU, what moves between n GPUs in a ring (alpha-beta: a
collective of m bytes by c messages takes c (n - 1) latencies and m (n - 1) / n / bandwidth; an all-reduce is two of them), once
with nothing hidden behind the computation and once with all that can be.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402
from training_peers import Step, images_per_second, our_step, plain_loop, random_batch  # noqa: E402

from msanet import distributed  # noqa: E402

SUBJECTS: dict[str, Callable[..., Step]] = {
    "DDP": plain_loop,
    "ours, DDP": partial(our_step, engine="ddp"),
    **{f"ours, ZeRO {stage}": partial(our_step, zero_stage=stage) for stage in range(4)},
}
_WORKER = "MSANET_SCALING_RESULT"


def main() -> int:
    """Measure, or print the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4], help="numbers of processes")
    parser.add_argument("--size", nargs=2, type=int, default=(96, 96), metavar=("H", "W"), help="of the images")
    parser.add_argument("--batch", type=int, default=1, help="images of a process and step")
    parser.add_argument("--width", type=float, default=0.5, help="model.width")
    parser.add_argument("--steps", type=int, default=3, help="of each subject in a round")
    parser.add_argument("--rounds", type=int, default=3, help="each subject is timed once a round")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--model", action="store_true", help="print the communication model and measure nothing")
    parser.add_argument("--step-seconds", type=float, default=1.0, help="of one GPU by itself")
    parser.add_argument("--parameters", type=float, default=19.56e6, help="of the network, 4 bytes each")
    parser.add_argument("--messages", type=int, default=100, help="layers whose weights ZeRO 3 gathers one by one")
    parser.add_argument("--bandwidth", type=float, default=25e9, help="bytes per second into and out of a GPU")
    parser.add_argument("--latency", type=float, default=10e-6, help="seconds of a message")
    args = parser.parse_args()
    if _WORKER in os.environ:
        work(args)
    elif args.model:
        print_model(args)
    else:
        measure(args)
    return 0


def measure(args: argparse.Namespace) -> None:
    """Start the processes of each number of ranks, one number after the other, and print the table."""
    speeds = {ranks: run(ranks) for ranks in args.ranks}
    first = args.ranks[0]
    rows = []
    for name in SUBJECTS:
        for ranks in args.ranks:
            own = speeds[ranks][name]
            efficiency = statistics.median(own) * first / (statistics.median(speeds[first][name]) * ranks)
            rows.append((name, ranks, statistics.median(own), efficiency, median_ratio(own, speeds[ranks]["DDP"])))
    print_table(("", "processes", "images/s of all", "efficiency", "times DDP"), rows)
    if torch.cuda.device_count() < max(args.ranks) and len(os.sched_getaffinity(0)) < max(args.ranks):
        print(f"more processes than the {len(os.sched_getaffinity(0))} cores: such rows say nothing of scaling")
    settings = {name: getattr(args, name) for name in ("size", "batch", "width", "steps", "rounds")}
    write_json(args.json, {"settings": settings, "images_per_second": speeds})


def run(ranks: int) -> Mapping[str, list[float]]:
    """What so many processes measure, this same command in each."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        common = os.environ | {
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(distributed.free_port()),
            "OMP_NUM_THREADS": "1",
            _WORKER: str(result),
        }
        processes = [
            subprocess.Popen([sys.executable, *sys.argv], env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(ranks)
        ]
        if any([process.wait() for process in processes]):
            sys.exit(f"a process of {ranks} failed")
        found: dict[str, list[float]] = json.loads(result.read_text())
        return found


def work(args: argparse.Namespace) -> None:
    """One of the processes: all subjects in turns."""
    with distributed.exiting_session(distributed.Timeouts.scaled(3600)):
        torch.set_num_threads(1)
        batch = random_batch(args.batch, tuple(args.size))
        steps = {name: build(batch, args.width) for name, build in SUBJECTS.items()}
        for step in steps.values():
            step()
        images = args.batch * distributed.world_size()
        speeds = {name: partial(images_per_second, step, images, args.steps, now) for name, step in steps.items()}
        found = in_turns(speeds, args.rounds)
        if distributed.is_main():
            Path(os.environ[_WORKER]).write_text(json.dumps(found))


def now() -> float:
    """Seconds by the wall clock, when all ranks are here and their devices are done: ranks that wait use no CPU time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    distributed.barrier()
    return time.perf_counter()


def communication(stage: int, gpus: int, size: float, bandwidth: float, latency: float, messages: int) -> float:
    """Seconds in which a step's weights and gradients (`size` bytes each) move in a ring.

    Times that either moves: 2 at stages 0 (gradients by all-reduce), 1 and 2 (gradients to their owners, weights back), 3 at
    stage 3 (weights twice, by layers; gradients to their owners).
    """
    times = 3 if stage == 3 else 2
    collectives = 2 * messages + 1 if stage == 3 else 2
    return times * size * (gpus - 1) / gpus / bandwidth + collectives * (gpus - 1) * latency


def print_model(args: argparse.Namespace) -> None:
    """The table of the model."""
    size = 4 * args.parameters
    print(
        f"A model, nothing measured: steps of {args.step_seconds:g} s on one GPU, {args.parameters / 1e6:g} million weights of "
        f"4 bytes, ring of {args.bandwidth / 1e9:g} GB/s and {1e6 * args.latency:g} us a message.\n"
    )
    rows = []
    for stage in range(4):
        for gpus in (1, 8, 64, 512):
            seconds = communication(stage, gpus, size, args.bandwidth, args.latency, args.messages)
            moved = (3 if stage == 3 else 2) * size * (gpus - 1) / gpus
            open_, hidden = args.step_seconds + seconds, max(args.step_seconds, seconds)
            efficiencies = [f"{args.step_seconds / total:.1%}" for total in (open_, hidden)]
            rows.append((f"ZeRO {stage}", gpus, f"{moved / 1e6:.0f}", f"{1e3 * seconds:.1f}", *efficiencies))
    print_table(("", "GPUs", "MB in and out of a GPU", "ms", "efficiency, none hidden", "all hidden"), rows)


if __name__ == "__main__":
    sys.exit(main())
