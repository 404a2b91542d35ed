"""What a training step costs: MSANet as the paper would write it, in a plain PyTorch loop, and in our trainer.

    python benchmarks/step.py [--size H W] [--batch N] [--width W] [--rounds N] [--only NAME ...] [--json FILE]
    python benchmarks/step.py --size 224 224 --batch 16        # on a GPU
    python benchmarks/step.py --size 1024 2048 --batch 1 --kernels       # on a GPU

All subjects take the same batch of noise, in one process and in turns; ratios are taken inside a round. One that memory does not
suffice for, or that cannot be compiled, is left out. On a GPU time is wall time up to the end of the device's work, with the peak
of its memory, and TFLOP/s (of convolutions and attention, calculated) beside those of large matrix products of the same type,
measured here; on a CPU it is CPU time of one thread, as others may share the machine, and only the ratios count. The data's way
from the disk is not in it (`benchmarks/streaming.py`).
"""

import argparse
import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402
from training_peers import (  # noqa: E402
    Step,
    estimated_bytes,
    flop,
    images_per_second,
    network,
    our_step,
    paper_loop,
    plain_loop,
    random_batch,
)

from msanet import distributed  # noqa: E402
from msanet.data.pipeline import Batch  # noqa: E402
from msanet.inference.predictor import is_out_of_memory  # noqa: E402
from msanet.models.attention.kernels import CANDIDATES  # noqa: E402

PEER = "as the paper writes it"
SUBJECTS: dict[str, Callable[..., Step]] = {
    PEER: paper_loop,
    "plain loop, our network": plain_loop,
    "ours": our_step,
    "ours, NCHW": partial(our_step, channels_last=False),
    "ours, ZeRO 1": partial(our_step, zero_stage=1),
    "ours, compiled": partial(our_step, compile=True),
    "plain loop, our network, bf16": partial(plain_loop, precision="bf16"),
    "DDP, our network, bf16": partial(plain_loop, precision="bf16", ddp=True),
    "ours, bf16": partial(our_step, precision="bf16"),
    "ours, bf16, ZeRO 1": partial(our_step, precision="bf16", zero_stage=1),
    "ours, bf16, compiled": partial(our_step, precision="bf16", compile=True),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = sorted(CANDIDATES[DEVICE], key="cudnn".__eq__)
"""cuDNN last: where it breaks the CUDA context, the others have been measured."""
BY_KERNEL: dict[str, Callable[..., Step]] = {
    f"ours, bf16, {name}": partial(our_step, precision="bf16", kernel=name) for name in KERNELS
}


def main() -> int:
    """Measure in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=(128, 128), metavar=("H", "W"), help="of the images")
    parser.add_argument("--batch", type=int, default=2, help="images of a step")
    parser.add_argument("--width", type=float, default=1.0, help="model.width")
    parser.add_argument("--steps", type=int, default=1, help="of each subject in a round")
    parser.add_argument("--rounds", type=int, default=3, help="each subject is timed once a round")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="NAME", help="these")
    parser.add_argument("--kernels", action="store_true", help="only ours, bf16, by each attention kernel that fits")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    subjects = BY_KERNEL if args.kernels else {name: SUBJECTS[name] for name in args.only}
    with distributed.exiting_session(distributed.Timeouts.scaled(3600)):
        torch.set_num_threads(1)
        measure(args, subjects)
    return 0


def measure(args: argparse.Namespace, subjects: dict[str, Callable[..., Step]]) -> None:
    """All subjects that the device has room for."""
    with torch.device("meta"):
        tflop = sum(flop(network(args.width).eval(), torch.empty(1, 3, *args.size))) / 1e12
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread, CPU time",
        "settings": {name: getattr(args, name) for name in ("size", "batch", "width", "steps", "rounds")},
        "tflop_an_image": tflop,
        "matmul_tflops": matmul_tflops(),
        "peak_bytes": {},
        "left_out": {},
    }

    def write(speeds: dict[str, list[float]], is_complete: bool = False) -> None:
        write_json(args.json, {**found, "images_per_second": speeds}, is_complete)

    timed = prepare(args, subjects, found, write)
    speeds = in_turns(timed, args.rounds, lambda found: write(found) if all(found.values()) else None)
    peer = next(iter(speeds.values()))
    rows: list[tuple[Any, ...]] = []
    for name, speed in speeds.items():
        peak = f"{found['peak_bytes'][name] / 1e9:.2f}" if torch.cuda.is_available() else ""
        rows.append((name, statistics.median(speed), median_ratio(speed, peer), peak, statistics.median(speed) * tflop))
    print_table(("one step", "images/s", f"times '{next(iter(speeds))}'", "peak, GB", "TFLOP/s"), rows)
    write(speeds, is_complete=True)


def prepare(
    args: argparse.Namespace,
    subjects: dict[str, Callable[..., Step]],
    found: dict[str, Any],
    write: Callable[[dict[str, list[float]]], None],
) -> dict[str, Callable[[], float]]:
    """What times each subject, warm. write: gets a first figure of each, for the case that time is up before the rounds."""
    batch = random_batch(args.batch, tuple(args.size))
    timed: dict[str, Callable[[], float]] = {}
    speeds: dict[str, list[float]] = {}
    for name, build in subjects.items():
        try:
            step, found["peak_bytes"][name] = warmed(build, batch, args.width)
            timed[name] = partial(images_per_second, step, args.batch, args.steps, now)
            speeds[name] = [timed[name]()]
        except Exception as error:
            can_fail = "compiled" in name or name in BY_KERNEL
            if not (can_fail or (isinstance(error, RuntimeError) and is_out_of_memory(error))):
                raise
            traceback.print_exc()
            timed.pop(name, None)
            found["left_out"][name] = str(error).partition("\n")[0]
            print(f"{name}: left out, since it failed", file=sys.stderr, flush=True)
        gc.collect()  # what a subject that failed has held
        write(speeds)
    assert timed, "no subject could be measured"
    if args.kernels:
        try:
            found["estimated_bytes"] = estimated_bytes(batch, args.width, precision="bf16")
        except RuntimeError as error:
            traceback.print_exc()
            found["left_out"]["the planner's estimate"] = str(error).partition("\n")[0]
    return timed


def matmul_tflops() -> float:
    """Of the best of five products of large square matrices of random values: in bf16 on a GPU, in float32 on a CPU."""
    side, dtype = (8192, torch.bfloat16) if torch.cuda.is_available() else (512, torch.float32)
    a, b = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))

    def seconds() -> float:
        start = now()
        for _ in range(10):
            a @ b
        return (now() - start) / 10

    seconds()
    return 2 * side**3 / min(seconds() for _ in range(5)) / 1e12


def warmed(build: Callable[..., Step], batch: Batch, width: float) -> tuple[Step, float]:
    """A subject after its first steps, in which kernels are compiled and chosen; the GPU's peak in the last of them, in bytes.

    Without what other subjects hold.
    """
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    step = build(batch, width)
    for _ in range(2 if torch.cuda.is_available() else 1):
        step()
    if not torch.cuda.is_available():
        return step, 0.0
    torch.cuda.reset_peak_memory_stats()
    step()
    return step, float(torch.cuda.max_memory_allocated() - before)


def now() -> float:
    """Seconds, when the device has done what it was given; of this process alone on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    sys.exit(main())
