"""Inference of whole images: latency and throughput of each network, eager and compiled, fp32 and bf16, by memory order.

    python benchmarks/inference.py [--networks NAME ...] [--size H W] [--width X] [--batch N] [--rounds N]
        [--ways WAY ...] [--no-compile] [--json FILE]

Every way is timed in turns in one run; "times" is the median over the rounds of the first way's time over the way's: by default
plain PyTorch's (eager, fp32, N, C, H, W). On a CPU these are seconds of the processor, which other work does not change: set
OMP_NUM_THREADS=1, and they are those of one core. The peer `as the paper writes it` has the attention map in memory, and is left
out where that would take more than --map-memory GB. Images are noise: speed does not depend on them. Sizes are a GPU's full
resolution by default, and on a CPU what ends within minutes. What the first call takes, with compilation, is shown beside and not
counted; a way that cannot be compiled is left out.
"""

import argparse
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402
from paper import as_written  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from msanet.models import MODELS, build_model  # noqa: E402

CLASSES = 19
IS_GPU = torch.cuda.is_available()
PLAIN = "eager, fp32, NCHW"
PAPER = "as the paper writes it"


@dataclass(frozen=True)
class Way:
    """How a network is run."""

    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False
    explicit: bool = False


WAYS = {
    PLAIN: Way(),
    "eager, fp32, channels_last": Way(channels_last=True),
    "eager, bf16, channels_last": Way("bf16", channels_last=True),
    "compiled, fp32, NCHW": Way(compiled=True),
    "compiled, fp32, channels_last": Way(channels_last=True, compiled=True),
    "compiled, bf16, channels_last": Way("bf16", channels_last=True, compiled=True),
    f"{PAPER}, fp32, NCHW": Way(explicit=True),
}


def main() -> None:
    """Time the networks one after the other, each in all ways in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=sorted(MODELS), choices=sorted(MODELS), metavar="NAME")
    parser.add_argument("--size", nargs=2, type=int, default=(1024, 2048) if IS_GPU else (128, 256), metavar=("H", "W"))
    parser.add_argument("--width", type=float, default=1.0 if IS_GPU else 0.25)
    parser.add_argument("--batch", type=int, default=4 if IS_GPU else 2, help="images at a time for throughput")
    parser.add_argument("--rounds", type=int, default=20 if IS_GPU else 3)
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help="the first is the peer"
    )
    parser.add_argument("--map-memory", type=float, default=4.0, metavar="GB")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    rows = []

    def write(is_complete: bool = False) -> None:
        result = {"size": list(arguments.size), "width": arguments.width, "batch": arguments.batch, "networks": found}
        write_json(arguments.json, result, is_complete)

    for network in arguments.networks:
        figures = found[network] = {}
        _network(network, arguments, figures, write)
        plain = figures[arguments.ways[0]]["latency"]
        for name, one in figures.items():
            times = median_ratio(plain, one["latency"])
            latency, batch = (statistics.median(one[key]) for key in ("latency", "batch"))
            rows.append((network, name, latency, times, arguments.batch / batch, one["preparation"]))
            print(rows[-1], file=sys.stderr, flush=True)
    header = ("network", "way", "s an image", "times", f"images/s, {arguments.batch} at a time", "first call, s")
    print_table(header, rows)
    write(is_complete=True)


def _network(name: str, arguments: argparse.Namespace, figures: dict[str, Any], write: Callable[[], None]) -> None:
    """Fill `figures`, by the names of ways. write: called whenever there is something new."""
    torch.compiler.reset()
    height, width = arguments.size
    map_gb = 4 * (height * width / 4) ** 2 / 1e9
    subjects: dict[str, Callable[[], float]] = {}
    for way_name, way in ((name, WAYS[name]) for name in arguments.ways):
        is_too_large = way.explicit and (name != "msanet" or map_gb > arguments.map_memory)
        if is_too_large or (way.compiled and arguments.no_compile):
            continue
        try:
            own, preparation = _warmed(name, way, arguments)
        except Exception:
            if not way.compiled:
                raise
            traceback.print_exc()
            print(f"{name}, {way_name}: left out, since it failed", file=sys.stderr, flush=True)
            continue
        figures[way_name] = {"preparation": preparation}
        subjects |= {f"{way_name}/{key}": timed for key, timed in own.items()}
        write()

    def keep(seconds: dict[str, list[float]]) -> None:
        for subject, own in seconds.items():
            way_name, _, key = subject.rpartition("/")
            figures[way_name][key] = own
        write()

    in_turns(subjects, arguments.rounds, keep)


def _warmed(name: str, way: Way, arguments: argparse.Namespace) -> tuple[dict[str, Callable[[], float]], float]:
    """What gives the seconds of one image and of a batch, and the seconds of their first calls."""
    model = _prepared(name, way, arguments.width)
    own: dict[str, Callable[[], float]] = {}
    preparation = 0.0
    for key, count in (("latency", 1), ("batch", arguments.batch)):
        image_NCHW = torch.randn(count, 3, *arguments.size, device="cuda" if IS_GPU else "cpu")
        if way.channels_last:
            image_NCHW = image_NCHW.contiguous(memory_format=torch.channels_last)
        own[key] = partial(_seconds, model, image_NCHW, way)
        preparation += own[key]()  # compiles, and measures kernels
    return own, preparation


def _prepared(name: str, way: Way, width: float) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    model: nn.Module = build_model(name, CLASSES, width=width).eval().to("cuda" if IS_GPU else "cpu")
    if way.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if way.explicit:
        as_written(model)
    return torch.compile(model, dynamic=False) if way.compiled else model


def _seconds(model: Callable[[Tensor], Tensor], image_NCHW: Tensor, way: Way) -> float:
    """From a normalized image on the device to its labels; on a CPU the processor's seconds, which other work does not change."""
    clock = time.perf_counter if IS_GPU else time.process_time
    began = clock()
    with (
        torch.inference_mode(),
        torch.autocast(image_NCHW.device.type, torch.bfloat16, enabled=way.precision == "bf16"),
    ):
        model(image_NCHW).max(dim=1).indices.to(torch.uint8)
    if IS_GPU:
        torch.cuda.synchronize()
    return clock() - began


if __name__ == "__main__":
    main()
