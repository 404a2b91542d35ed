"""All that needs a GPU, in minutes: what says most first, each part with its own bound, figures written as they come.

    python benchmarks/gpu.py SHARDS OUT [--minutes 12] [--only PART ...] [--rehearse]

Started by benchmarks/gpu.sh, which says how to get here. OUT gets NAME.json and NAME.log of each part, and parts.json: how each
ended and after how many seconds. A part that fails or takes too long is named, ended with all its processes, and does not end the
others; the same command again runs those that are not done. `python benchmarks/gpu_tables.py OUT` puts the figures into the docs.

--rehearse: every part on the CPU with tiny sizes, for minutes, by the same code: what fails there would fail on the GPU.
"""

import argparse
import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
LAST_PART = "camvid"
REHEARSAL_SECONDS = 300.0
"""Bound of each part of a rehearsal, since CPUs may be shared."""


@dataclass(frozen=True)
class Part:
    """A program with the words that follow it, and those that follow instead in a rehearsal. seconds: its bound."""

    seconds: float
    program: str
    words: str
    rehearsal: str


SMALL = "--size 32 32 --batch 1 --width 0.05 --rounds 1"
LOOPS = '"plain loop, our network, bf16" "DDP, our network, bf16" "ours, bf16"'
WAYS = '"eager, fp32, NCHW" "eager, fp32, channels_last" "eager, bf16, channels_last"'
ROWS = '"msanet, 384x512, 4" "768x1024, 1, bf16" "1, checkpointing" "512x640, 4, bf16" "deeplabv3, 1024x1280, 4, sgd"'
RUN = "--shards {shards} --out {out}/runs --networks msanet --seeds 0 --minutes {minutes:.2f}"
PYTEST = "-q -p no:cacheprovider -m gpu tests/test_gpu.py tests/training/test_device_prefetcher.py"
PARTS = {
    "step-full": Part(120, "step.py", "--size 1024 2048 --batch 1 --rounds 2 --kernels", f"--kernels {SMALL}"),
    "step-224": Part(
        80,
        "step.py",
        f'''--size 224 224 --batch 16 --steps 10 --only {LOOPS} "ours, bf16, ZeRO 1" "plain loop, our network" ours
        "as the paper writes it"''',
        f"{SMALL} --only {LOOPS}",
    ),
    "memory": Part(70, "memory.py", f"--only {ROWS}", '--only "msanet, 96x128, 4, sgd"'),
    "precision": Part(
        75,
        "precision.py",
        "--shards {shards}",
        "--shards {shards} --steps 2 --batch 2 --width 0.05 --images 3 --size 32 40",
    ),
    "inference-full": Part(
        45,
        "inference.py",
        '--networks msanet --size 1024 2048 --batch 1 --rounds 3 --ways "eager, bf16, channels_last"',
        f'--networks msanet {SMALL} --ways "eager, bf16, channels_last"',
    ),
    "inference": Part(
        45,
        "inference.py",
        f"--networks msanet unet deeplabv3 --size 512 1024 --batch 4 --rounds 5 --ways {WAYS}",
        f"--networks msanet {SMALL} --ways {WAYS}",
    ),
    "tests": Part(60, "-m pytest", PYTEST, PYTEST),
    "lost-rank": Part(75, "lost_rank.py", "", "--faults killed"),
    "attention": Part(45, "attention.py", "--positions 32768 131072 --rounds 2", "--positions 288 --channels 16 --rounds 1"),
    "compiled": Part(
        75,
        "step.py",
        '--size 224 224 --batch 16 --steps 10 --only "ours, bf16" "ours, bf16, compiled"',
        f'{SMALL} --only "ours, bf16"',
    ),
    LAST_PART: Part(
        1e9,
        "convergence.py",
        f"{RUN} trainer.epochs={{epochs}} trainer.val_every_epochs={{validations}} data.num_workers=12",
        f"{RUN} trainer.epochs=1 trainer.val_every_epochs=1 trainer.log_every_steps=1 trainer.precision=fp32 data.crop=[32,40] "
        "data.num_workers=1 evaluation.resize=[32,40] model.width=0.05",
    ),
}  # fmt: skip
"""In the order of what they say."""


def main() -> int:
    """Run the parts. 1 if one was not done."""
    if sys.argv[1:] == ["--worker"]:
        return work()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="CamVid's, made by benchmarks/gpu_carry.py or python -m sharding")
    parser.add_argument("out", type=Path, help="folder for what comes out")
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything (default: 12)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="these")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny sizes")
    args = parser.parse_args()
    args.shards, args.out = args.shards.resolve(), args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.rehearse:
        os.environ |= {
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "MSANET_GPU_TESTS": "cpu",
        }
    os.environ |= {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the parts end too
    return run_parts(args, PARTS, time.monotonic() + 60 * args.minutes)


def run_parts(args: argparse.Namespace, parts: dict[str, Part], deadline: float) -> int:
    """One after the other, while the next part's process imports what all need."""
    record = args.out / "parts.json"
    known = json.loads(record.read_text())["parts"] if record.is_file() else {}
    waiting = [name for name in args.only if known.get(name, {}).get("outcome") != "done"]
    worker = Worker()
    for number, name in enumerate(waiting):
        left = deadline - time.monotonic() - 2
        bound = min(left, REHEARSAL_SECONDS if args.rehearse else parts[name].seconds)
        if bound > 5:
            print(f"== {name}: at most {bound:.0f} s", flush=True)
            start, this = time.monotonic(), worker
            this.begin(command(name, parts[name], args, bound), args.out / f"{name}.log")
            if number + 1 < len(waiting):
                worker = Worker()  # which ends by itself where nothing is left to do, since its input ends
            outcome, seconds = this.finish(bound), time.monotonic() - start
        else:
            outcome, seconds = "no time left", 0.0
        known[name] = {"outcome": outcome, "seconds": round(seconds, 1)}
        record.write_text(json.dumps({"is_rehearsal": args.rehearse, "parts": known}, indent=1) + "\n")
        print(f"== {name}: {outcome} after {seconds:.0f} s", flush=True)
        if outcome not in ("done", "no time left"):
            print((args.out / f"{name}.log").read_text(errors="replace")[-1500:], flush=True)
    worker.end()
    failed = [name for name in args.only if known[name]["outcome"] != "done"]
    if failed:
        print(f"error: not done: {', '.join(failed)}; see the logs in {args.out}")
    return int(bool(failed))


def command(name: str, part: Part, args: argparse.Namespace, seconds: float) -> list[str]:
    """Program and words of a part that has so many seconds."""
    places = {"shards": args.shards, "out": args.out, "minutes": (seconds - 20) / 60}
    if name == LAST_PART:
        epochs = epochs_in(seconds - 45, args.out)
        places |= {"epochs": epochs, "validations": max(1, epochs // 3)}
    words = [word.format(**places) for word in shlex.split(part.rehearsal if args.rehearse else part.words)]
    if not part.program.startswith("-m"):
        words = ["--json", str(args.out / f"{name}.json"), *words]
    return [part.program, *words]


def epochs_in(seconds: float, out: Path) -> int:
    """Of CamVid's 367 images, at three quarters of the speed that was measured without a loader; the same when it is resumed."""
    chosen = out / "camvid.epochs"
    if chosen.is_file():
        return int(chosen.read_text())
    try:
        speed = json.loads((out / "precision.json").read_text())["training_images_per_second"]
    except (OSError, KeyError, ValueError):
        speed = 40.0
    epochs = max(2, int(0.75 * speed * seconds / 367))
    chosen.write_text(str(epochs))
    return epochs


class Worker:
    """A process with a session of its own that has imported what all parts need, waits for one part, and ends with it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker"], stdin=subprocess.PIPE, cwd=ROOT, text=True, start_new_session=True
        )

    def begin(self, command: list[str], log: Path) -> None:
        """Run this part."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # its imports have failed, and its exit code says so
            self.process.stdin.write(json.dumps({"command": command, "log": str(log)}) + "\n")
            self.process.stdin.close()

    def finish(self, seconds: float) -> str:
        """Wait so long at most, end whatever is still there, and say how it went."""
        try:
            code = self.process.wait(seconds)
            return "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            return f"ended, since it took longer than {seconds:.0f} s"
        finally:
            self.end()

    def end(self) -> None:
        """Kill it and all that it has started, also what has left its session."""
        family = [self.process.pid]
        with suppress(psutil.NoSuchProcess):
            family += [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]
        family += [one.pid for one in psutil.process_iter() if _session(one.pid) == self.process.pid]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _session(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


def work() -> int:
    """In a worker: import, wait for a part, become it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import msanet.training.trainer  # noqa: F401

    line = sys.stdin.readline()
    if not line:
        return 0
    order = json.loads(line)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    program, *words = order["command"]
    started: Callable[..., object] = runpy.run_path
    if program.startswith("-m "):
        started, program = runpy.run_module, program.removeprefix("-m ")
    else:
        program = str(ROOT / "benchmarks" / program)
    sys.argv = [program, *words]
    started(program, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
