"""`msanet demo`: the main job from start to end on this machine; every step is a command that you would give yourself."""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from msanet import distributed
from msanet.cli import generate, pack
from msanet.cli.parser import new_parser, parse
from msanet.errors import UserError

logger = logging.getLogger(__name__)

_DETAILS = """\
Draws 240 street scenes, packs them, trains a small MSANet on them, evaluates it and writes DIR/run/report.html. The same
command again continues where it stopped."""
_SIZES = (8, 4, 2, 1)
"""Numbers of ranks that divide the recipe's global batch of 8."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("demo", "demo --dir demo", _DETAILS)
    where = "folder for everything that is written (default demo)"
    parser.add_argument("--dir", type=Path, default=Path("demo"), help=where)
    folder: Path = parse(parser, argv).dir
    if not (folder / "street").is_dir():
        images = ["--images", "240", "--size", "256x128", "--rare", "3", "--workers", "2"]
        generate.main(["--out", str(folder / "street"), *images])
    pack.main(["cityscapes", "--source", str(folder / "street"), "--out", str(folder / "shards")])
    precision = f"trainer.precision={'bf16' if _computes_in_bfloat16() else 'fp32'}"
    run_ranks("train", "--config", "demo", f"data.path={folder / 'shards'}", f"run.dir={folder / 'run'}", precision)
    run_ranks("evaluate", "--run", str(folder / "run"), "--split", "val")
    return 0


def _computes_in_bfloat16() -> bool:
    """Whether the device has instructions for it; a CPU without them computes in bfloat16 several times as slowly."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and any(name in cpu.read_text() for name in ("avx512_bf16", "amx_bf16"))


def run_ranks(command: str, *words: str) -> None:
    """`msanet COMMAND` under `deepspeed`, on all GPUs, or on two processes that share the CPU. Raises UserError."""
    gpus = torch.cuda.device_count()
    ranks = next(size for size in _SIZES if size <= gpus) if gpus else 2
    launcher = ["-m", "deepspeed.launcher.runner", "--quiet", "--log_level", "error", "--num_accelerators", str(ranks)]
    launcher += ["--master_port", str(distributed.free_port())]  # not the default, which another training may be using
    environment = {"PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cuda" if gpus else "cpu"}
    line = [sys.executable, *launcher, "--module", "msanet", command, *words]
    logger.info(f"msanet {command} {' '.join(words)} on {ranks} ranks")
    process = subprocess.Popen(line, env={**os.environ, **environment})
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the interrupt as well, and saves
        raise
    if code:
        ended = f"msanet {command} ended with exit code {code}, expected 0"
        message = f"{ended}; fix what it reports, then run msanet demo again"
        raise UserError("MSA-CLI-015", message)
