"""Attention: the explicit form, what the package takes, each kernel, chunks and the approximations, in one run.

    python benchmarks/attention.py [--positions N ...] [--channels C ...] [--rounds N] [--json FILE]
    python benchmarks/attention.py --checkpoint RUN --shards SHARDS [--split val]

Maps of N positions, twice as wide as high, on a GPU in bf16 and of the network's sizes at 2048x1024, on a CPU in float32 on one
core, small: there only ratios count. Scores have unit variance. Arithmetic is 4 N^2 C forward and 2.5 times that backward. Peak
memory is above that of the inputs: on a GPU as the allocator has it, on a CPU what operators return. The explicit form is left
out where its scores are too large.

With --checkpoint: a trained MSANet evaluated exact and with each approximation, and how many pixels keep their label.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402
from paper import explicit_attention  # noqa: E402

from msanet.config import EvaluationConfig  # noqa: E402
from msanet.data.loader import evaluation_loader  # noqa: E402
from msanet.data.shard_source import ShardSource  # noqa: E402
from msanet.data.storage import LocalStorage  # noqa: E402
from msanet.errors import user_errors  # noqa: E402
from msanet.evaluation.confusion import confusion_matrix_with_void  # noqa: E402
from msanet.evaluation.metrics import scores  # noqa: E402
from msanet.inference.predictor import Predictor  # noqa: E402
from msanet.models import build_model  # noqa: E402
from msanet.models.attention.kernels import CANDIDATES, CHUNKS, KERNELS, unlogged_choices  # noqa: E402
from msanet.models.attention.spatial import positions, spatial_attention  # noqa: E402
from msanet.models.io import load_weights  # noqa: E402
from msanet.models.peak_memory import peak_bytes  # noqa: E402
from msanet.run_layout import CheckpointLayout
from msanet.training.checkpoint.io import latest_valid  # noqa: E402

OURS, EXPLICIT = "ours", "explicit form"
BACKWARD = 2.5
"""Matrix products of the backward pass over those of the forward pass: five instead of two."""
SIZES = {"cuda": ((32_768, 131_072, 524_288), torch.bfloat16), "cpu": ((1_152, 4_608), torch.float32)}
"""On a GPU the maps of 512x256 pixels, of the three-level and of the two-level module at 2048x1024; and the type."""
MOST_IN_CHUNKS = 131_072
"""Positions; more take minutes."""
WINDOW = {"cuda": 64, "cpu": 16}
APPROXIMATIONS: dict[str, dict[str, int]] = {
    "pool 2": {"attention_pool": 2},
    "pool 4": {"attention_pool": 4},
    "window 32": {"attention_window": 32},
    "window 16": {"attention_window": 16},
    "window 8": {"attention_window": 8},
    "window 16, pool 2": {"attention_window": 16, "attention_pool": 2},
}
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> int:
    """Measure speed, or with --checkpoint the approximations' accuracy; print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SIZES, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--positions", type=int, nargs="+", metavar="N", help="twice a square number fits best")
    parser.add_argument("--channels", type=int, nargs="+", default=[128, 256], metavar="C")
    parser.add_argument("--rounds", type=int, default=5, help="each subject is timed once a round")
    parser.add_argument("--checkpoint", type=Path, metavar="RUN", help="a run folder, or a model.safetensors")
    parser.add_argument("--shards", type=Path, metavar="SHARDS", help="what to evaluate the checkpoint on")
    parser.add_argument("--split", default="val")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    if (args.checkpoint is None) != (args.shards is None):
        parser.error("--checkpoint and --shards go together")
    if args.device == "cpu":
        torch.set_num_threads(1)
    with user_errors():
        found = evaluate(args) if args.checkpoint else measure(args)
        write_json(args.json, found)
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Tables of speed, one for each size, and what our choice was."""
    sizes, dtype = SIZES[args.device]
    found = {}
    for count in args.positions or sizes:
        for channels in args.channels:
            height = round(math.sqrt(count / 2))
            shape = (1, channels, height, round(count / height))
            found[f"{count} x {channels}"] = speeds(args.device, dtype, shape, args.rounds)
    choices = unlogged_choices()
    print("", *choices, sep="\n")
    return {"device": device_name(args.device), "sizes": found, "choices": choices}


def speeds(device: str, dtype: torch.dtype, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """One table: every subject, forward and with backward; seconds, peak bytes."""
    count, channels = shape[2] * shape[3], shape[1]
    maps = [
        (channels**-0.25 * torch.randn(shape, device=device))
        .to(dtype, memory_format=torch.channels_last)
        .requires_grad_()
        for _ in range(3)
    ]
    work = 4 * count**2 * channels
    print(f"\n{count} positions ({shape[2]} x {shape[3]}), {channels} channels, {dtype}, {device_name(device)}\n")
    known = {name: run for name, run in subjects(maps).items() if fits(run, maps)}
    for run in known.values():
        for backward in (False, True):
            once(run, maps, backward)  # warm, and our choices made
    seconds = {
        name: in_turns({key: partial(timed, run, maps, backward) for key, run in known.items()}, rounds)
        for name, backward in (("forward", False), ("step", True))
    }
    peaks = {key: peak(run, maps) for key, run in known.items()}
    peer = EXPLICIT if EXPLICIT in known else OURS
    exact = {EXPLICIT, OURS, *KERNELS}
    rows = []
    for key in known:
        row: list[Any] = [f"**{key}**" if key == OURS else key]
        for name, times in (("forward", 1.0), ("step", 1 + BACKWARD)):
            middle = statistics.median(seconds[name][key])
            rate = f"{times * work / middle / 1e12:.3g}" if key in exact else ""
            row += [middle * 1e3, rate, median_ratio(seconds[name][peer], seconds[name][key])]
        rows.append((*row, f"{peaks[key] / 1e6:,.0f} MB"))
    speed = f"speed / {'explicit' if peer == EXPLICIT else peer}"
    columns = ("ms", "TFLOP/s", speed)
    header = ("attention", *(f"forward, {what}" for what in columns), *(f"with backward, {what}" for what in columns))
    print_table((*header, "peak memory"), rows)
    return {"seconds": seconds, "peak_bytes": peaks}


def subjects(maps: list[Tensor]) -> dict[str, Attention]:
    """Attention of maps A, B, C by name; the explicit form where five times its scores fit into memory."""
    device, count = maps[0].device.type, maps[0].shape[2] * maps[0].shape[3]
    scores_bytes = count**2 * maps[0].element_size()
    known: dict[str, Attention] = {EXPLICIT: explicit_attention, OURS: spatial_attention}
    if 5 * scores_bytes > free_bytes(device):
        print(f"explicit form: N^2 x bytes = {scores_bytes / 1e9:,.3g} GB, not run\n")
        del known[EXPLICIT]
    names = CANDIDATES[device] if count > MOST_IN_CHUNKS else (*CANDIDATES[device], CHUNKS)
    known |= {name: partial(by_kernel, name) for name in names}
    known["approximation: pool 2"] = partial(spatial_attention, pool=2)
    known[f"approximation: window {WINDOW[device]}"] = partial(spatial_attention, window=WINDOW[device])
    return known


def by_kernel(name: str, a_NCHW: Tensor, b_NCHW: Tensor, c_NCHW: Tensor) -> Tensor:
    """The same by one kernel."""
    return KERNELS[name](positions(b_NCHW), positions(a_NCHW), positions(c_NCHW)).mT.reshape(c_NCHW.shape)


def fits(run: Attention, maps: list[Tensor]) -> bool:
    """Whether a kernel takes this type and these channels, forward and backward."""
    small = [x[..., :16, :16].detach().contiguous().requires_grad_() for x in maps]
    try:
        once(run, small, True)
    except RuntimeError:
        return False
    return True


def timed(run: Attention, maps: list[Tensor], backward: bool) -> float:
    """Seconds of one call; of CPU time on a CPU, which others may share."""
    clock = time.perf_counter if maps[0].is_cuda else time.process_time
    synchronise(maps[0].device)
    start = clock()
    once(run, maps, backward)
    synchronise(maps[0].device)
    return clock() - start


def once(run: Attention, maps: list[Tensor], backward: bool) -> None:
    """Forward, and backward if asked for."""
    with torch.set_grad_enabled(backward):
        output = run(*maps)
        if backward:
            torch.autograd.grad(output, maps, torch.ones_like(output))


def peak(run: Attention, maps: list[Tensor]) -> int:
    """Bytes above the inputs in forward and backward."""
    if not maps[0].is_cuda:
        return peak_bytes(nn.Identity(), lambda: once(run, maps, True))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    once(run, maps, True)
    return torch.cuda.max_memory_allocated() - before


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_bytes(device: str) -> int:
    """StepMemory that nothing uses."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_name(device: str) -> str:
    """The GPU's own name."""
    return torch.cuda.get_device_name() if device == "cuda" else "one CPU core"


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """One table: mIoU of the split, and the share of pixels whose label is that of exact attention, by approximation."""
    weights, metadata = load_weights(model_file(args.checkpoint))
    if metadata.name != "msanet" or metadata.options.get("attention", "full") != "full":
        raise SystemExit(
            f"error: '{args.checkpoint}' is of a network without attention, expected an MSANet; give another --checkpoint"
        )
    predictors, options = {}, {"exact": {"attention_pool": 1, "attention_window": 0}, **APPROXIMATIONS}
    for name, approximation in options.items():
        network = build_model("msanet", len(metadata.classes), **{**metadata.options, **approximation})
        network.load_state_dict(weights)
        settings = EvaluationConfig(resize=metadata.resize)
        predictors[name] = Predictor(network.to(args.device).eval(), settings, metadata.mean, metadata.std)
    source = ShardSource(LocalStorage(args.shards), args.split)
    matrices = {name: np.zeros((len(metadata.classes),) * 2, np.int64) for name in options}
    same, pixels, size = dict.fromkeys(options, 0), 0, (0, 0)
    for sample in evaluation_loader(source, 0, 1, workers=0):
        size = (sample.label_HW.shape[0], sample.label_HW.shape[1])
        pixels += sample.label_HW.numel()
        labels = {
            name: predictor.labels(sample.image_HWC.to(args.device)).cpu() for name, predictor in predictors.items()
        }
        for name, label_HW in labels.items():
            matrix = confusion_matrix_with_void(sample.label_HW, label_HW, len(metadata.classes))
            matrices[name] += matrix[:, :-1].numpy()
            same[name] += int((label_HW == labels["exact"]).sum())
    miou = {name: scores(matrix, metadata.classes).mean_iou for name, matrix in matrices.items()}
    print(
        f"\n{metadata.dataset}, {len(source)} images of '{args.split}', the last {size[0]} x {size[1]}, step {metadata.step}\n"
    )
    rows = [
        (name, f"{100 * miou[name]:.2f}", f"{100 * (miou[name] - miou['exact']):+.2f}", f"{same[name] / pixels:.4%}")
        for name in options
    ]
    print_table(("attention", "mIoU, percent", "change", "pixels with the same label"), rows)
    return {"miou": miou, "same": {name: count / pixels for name, count in same.items()}}


def model_file(given: Path) -> Path:
    """The weights in a run folder, in its newest complete checkpoint, or the file itself."""
    if not given.is_dir():
        return given
    newest = latest_valid(given / "checkpoints")
    if newest is None:
        raise SystemExit(
            f"error: '{given}' holds no complete checkpoint, expected at least one; give another --checkpoint"
        )
    return newest / CheckpointLayout.MODEL


if __name__ == "__main__":
    sys.exit(main())
