"""The memory planner's estimate of a training step against what the step takes, for several networks and settings.

    python benchmarks/memory.py [--only NAME ...] [--json FILE]

Each row is a job of its own (one or two ranks): a few real steps of the trainer on made-up images, after the optimizer has its
state. On a CPU the heap is counted by heap.c, which needs a C compiler: what PyTorch's allocator holds (compared with the
estimate), and what oneDNN, BLAS and everything else in the process add; beside them the growth of the resident set. On a GPU
it is `torch.cuda.max_memory_allocated`, with the networks at full width and images of 4 times the size along each axis. All
above what the process has after its imports. Rows of more ranks than there are GPUs are left out. Exit code 1 if an estimate is
off by more than 15 percent.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from harness import print_table, write_json  # noqa: E402

from msanet import distributed  # noqa: E402
from msanet.config import Config, parse_config  # noqa: E402
from msanet.data.loader import batch_plan  # noqa: E402
from msanet.data.manifest import Manifest, ShardInfo, SplitInfo  # noqa: E402
from msanet.data.pipeline import Batch  # noqa: E402
from msanet.models import build_model  # noqa: E402
from msanet.training.memory.estimate import step_memory  # noqa: E402
from msanet.training.trainer import Trainer  # noqa: E402

CLASSES, STEPS, BAR = 19, 3, 0.15
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["msanet.training.trainer"])  # imported once
ROWS: dict[str, tuple[int, dict[str, Any]]] = {
    "msanet, 96x128, 1": (1, {"crop": [96, 128], "micro": 1}),
    "msanet, 96x128, 4": (1, {"crop": [96, 128], "micro": 4}),
    "msanet, 192x256, 1": (1, {"crop": [192, 256], "micro": 1}),
    "msanet, 192x256, 1, bf16": (1, {"crop": [192, 256], "micro": 1, "precision": "bf16"}),
    "msanet, 192x256, 1, checkpointing": (1, {"crop": [192, 256], "micro": 1, "activation_checkpointing": True}),
    "msanet, 96x128, 2, bf16, checkpointing": (
        1,
        {"crop": [96, 128], "micro": 2, "precision": "bf16", "activation_checkpointing": True},
    ),
    "msanet, 96x128, 4, sgd": (1, {"crop": [96, 128], "micro": 4, "optimizer": "sgd"}),
    "msanet, 96x128, 2 of 4, ema": (1, {"crop": [96, 128], "micro": 2, "global": 4, "ema_decay": 0.99}),
    **{
        f"msanet, 96x128, 2, ZeRO {stage} on 2 ranks": (2, {"crop": [96, 128], "micro": 2, "zero_stage": stage})
        for stage in range(4)
    },
    "msanet, 96x128, 2, ZeRO 2 on 2 ranks, bf16": (
        2,
        {"crop": [96, 128], "micro": 2, "zero_stage": 2, "precision": "bf16"},
    ),
    "unet, 128x160, 4": (1, {"model": "unet", "crop": [128, 160], "micro": 4}),
    "unet, 128x160, 4, bf16": (1, {"model": "unet", "crop": [128, 160], "micro": 4, "precision": "bf16"}),
    "unet, 128x160, 2, ZeRO 3 on 2 ranks": (2, {"model": "unet", "crop": [128, 160], "micro": 2, "zero_stage": 3}),
    "deeplabv3, 256x320, 4": (1, {"model": "deeplabv3", "crop": [256, 320], "micro": 4}),
    "deeplabv3, 256x320, 4, checkpointing": (
        1,
        {"model": "deeplabv3", "crop": [256, 320], "micro": 4, "activation_checkpointing": True},
    ),
    "deeplabv3, 256x320, 4, sgd, bf16": (
        1,
        {"model": "deeplabv3", "crop": [256, 320], "micro": 4, "optimizer": "sgd", "precision": "bf16"},
    ),
    "attention_to_scale, 128x160, 4": (1, {"model": "attention_to_scale", "crop": [128, 160], "micro": 4}),
    "attention_to_scale, 128x160, 4, sgd, bf16": (
        1,
        {"model": "attention_to_scale", "crop": [128, 160], "micro": 4, "optimizer": "sgd", "precision": "bf16"},
    ),
}
"""Name: (ranks, what differs from the defaults). Names say network, height x width on a CPU, images of a micro-batch."""


def main() -> int:
    """Run the rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows whose names contain one of these")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        if not torch.cuda.is_available():  # for the server that forks the ranks, which starts with the first
            os.environ |= {
                "LD_PRELOAD": str(_compile(Path(folder))),
                "DS_ACCELERATOR": "cpu",
                "PYTHONWARNINGS": "ignore",
            }
        for row, (ranks, _) in ROWS.items():
            name = _true_size(row)
            if arguments.only and not any(part in name for part in arguments.only):
                continue
            if torch.cuda.is_available() and ranks > torch.cuda.device_count():
                print(f"{name}: left out, as there are {torch.cuda.device_count()} GPUs", file=sys.stderr, flush=True)
                continue
            worst = max(_measure(row), key=lambda one: one["measured"])
            ratio = worst["estimate"] / worst["measured"]
            figures[name] = {**worst, "ratio": ratio}
            others = [f"{worst[key] / 1e6:.0f}" for key in ("heap", "resident") if key in worst]
            rows.append(
                (name, f"{worst['estimate'] / 1e6:.0f}", f"{worst['measured'] / 1e6:.0f}", f"{ratio:.2f}", *others)
            )
            print(rows[-1], file=sys.stderr, flush=True)
            write_json(arguments.json, {"rows": figures}, is_complete=False)
    more = () if torch.cuda.is_available() else ("whole heap, MB", "resident, MB")
    print_table(("step", "estimate, MB", "measured, MB", "ratio", *more), rows)
    write_json(arguments.json, {"rows": figures})
    return int(any(abs(row["ratio"] - 1) > BAR for row in figures.values()))


def _grow() -> int:
    """How many times as long the sides of images are here, and networks as wide."""
    return 4 if torch.cuda.is_available() else 1


def _true_size(row: str) -> str:
    """The name of a row with the size that its images have here."""
    return re.sub(r"(\d+)x(\d+)", lambda found: f"{int(found[1]) * _grow()}x{int(found[2]) * _grow()}", row)


def _compile(folder: Path) -> Path:
    library = folder / "heap.so"
    source = ROOT / "benchmarks" / "heap.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def _measure(name: str) -> list[dict[str, float]]:
    """One row: a job of its ranks, each of which says what it found."""
    ranks, _ = ROWS[name]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            PROCESSES.Process(
                target=_work, args=(name, f"{folder}/{rank}", {**common, "RANK": rank, "LOCAL_RANK": rank})
            )
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit(f"{name}: a rank failed")
        return [json.loads(Path(folder, str(rank)).read_text()) for rank in range(ranks)]


def _work(name: str, out: str, environment: dict[str, object]) -> None:
    os.environ.update({key: str(value) for key, value in environment.items()})
    ranks, chosen = ROWS[name]
    config = _config(dict(chosen), ranks, _grow())
    with distributed.exiting_session(distributed.Timeouts.scaled(600)):
        found = _steps(config)
        build = partial(build_model, config.model.name, CLASSES, **config.model.options)
        assert config.data.crop
        device = distributed.device().type
        estimate = step_memory(build, config, (1,) * CLASSES, batch_plan(config, ranks), config.data.crop, device)
        Path(out).write_text(json.dumps({"estimate": estimate.total, "parts": estimate.parts, **found}))


def _config(chosen: dict[str, Any], ranks: int, grow: int) -> Config:
    crop, micro = [side * grow for side in chosen.pop("crop")], chosen.pop("micro")
    model, optimizer = chosen.pop("model", "msanet"), chosen.pop("optimizer", "adam")
    trainer = {
        "steps": 10,
        "global_batch_size": chosen.pop("global", micro * ranks),
        "micro_batch_size": micro,
        **chosen,
    }
    tree = {
        "data": {"crop": crop, "brightness": 0.3},
        "model": {"name": model, "width": 0.25 * grow},
        "optimizer": {"name": optimizer},
        "trainer": trainer,
    }
    return parse_config(tree, "a row")


def _steps(config: Config) -> dict[str, float]:
    """Train, and the peak of the last step: {"measured"; on a CPU also "heap", "resident"}."""
    gauge = _Gauge()
    shard = ShardInfo(file="a.tar", samples=1000, bytes=10**6, sha256="0" * 64)
    split = SplitInfo(samples=1000, shards=(shard,), histogram=(1,) * CLASSES, ignored=0)
    manifest = Manifest(
        name="made up",
        classes=tuple(map(str, range(CLASSES))),
        palette=((0, 0, 0),) * CLASSES,
        ids=tuple(range(CLASSES)),
        ignore_index=255,
        codec="none",
        splits={"train": split},
    )
    batches = batch_plan(config, distributed.world_size())
    model = build_model(config.model.name, CLASSES, **config.model.options)
    trainer = Trainer(config, manifest, model, batches, None)
    for _ in range(STEPS):
        gauge.reset()
        made = [_batch(batches.micro_batch_size, config.data.crop or (0, 0)) for _ in range(batches.accumulation)]
        trainer.prefetcher.send(made)
        trainer.train_step(made)
    return gauge.read()


def _batch(count: int, size: tuple[int, int]) -> Batch:
    return Batch(
        images_NHWC=torch.randint(256, (count, *size, 3), dtype=torch.uint8),
        labels_NHW=torch.randint(CLASSES, (count, *size), dtype=torch.uint8),
        jitter_N3=torch.ones(count, 3),
        epochs_N=torch.zeros(count, dtype=torch.int64),
        samples_N=torch.zeros(count, dtype=torch.int64),
    )


class _Gauge:
    """Peaks above what there was when it was made."""

    def __init__(self) -> None:
        self.is_gpu = torch.cuda.is_available()
        if self.is_gpu:
            return
        self._heap = ctypes.CDLL(None)
        self._heap.heap_now.restype = self._heap.heap_peak.restype = ctypes.c_long
        self._before = [self._heap.heap_now(kind) for kind in (0, 1)]
        self._resident = _status("VmRSS")

    def reset(self) -> None:
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            self._heap.heap_reset()

    def read(self) -> dict[str, float]:
        if self.is_gpu:
            torch.cuda.synchronize()
            return {"measured": torch.cuda.max_memory_allocated()}
        heap, of_torch = (self._heap.heap_peak(kind) - self._before[kind] for kind in (0, 1))
        return {"measured": of_torch, "heap": heap, "resident": _status("VmHWM") - self._resident}


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    sys.exit(main())
