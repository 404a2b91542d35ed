"""`msanet export`: a trained network as one file for use elsewhere; docs/deployment.md shows its use."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from msanet.cli.parser import new_parser, parse
from msanet.cli.run_arguments import add_run_arguments, find_checkpoint, run_config
from msanet.errors import UserError
from msanet.inference.export import FORMATS, export_network
from msanet.models.io import load_network

_DETAILS = """\
The file takes RGB images of any size (or --size) with values 0 to 255, normalizes them itself and contains the model's
metadata. Its output is compared with PyTorch's first: where they differ, nothing is written."""


@dataclass(frozen=True)
class ExportJob:
    """What is to be exported. size: (height, width) of all images in pixels; None for any."""

    checkpoint: Path
    target: str
    out: Path
    size: tuple[int, int] | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    job = export_job(argv)
    network, metadata = load_network(job.checkpoint, torch.device("cpu"))
    job.out.parent.mkdir(parents=True, exist_ok=True)
    export_network(job.out, job.target, network, metadata, job.size)
    about = f"{metadata.name} with {len(metadata.classes)} classes of {metadata.dataset}, step {metadata.step}"
    print(f"{about}, written to {job.out}")
    return 0


def export_job(argv: Sequence[str] | None = None) -> ExportJob:
    """Read the command line. Raises UserError on a size or a file that makes no sense."""
    parser = new_parser("export", "export --run RUN --to onnx", _DETAILS)
    add_run_arguments(parser, settings=False)
    parser.add_argument("--to", choices=sorted(FORMATS), required=True, help="format of the file")
    out_help = "the file to write (default: model.ENDING in the run, or next to the checkpoint)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=out_help)
    size_help = "the only size of images in pixels (default: any)"
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help=size_help)
    arguments = parse(parser, argv)
    size = tuple(arguments.size) if arguments.size else None
    if size and (arguments.to == "safetensors" or min(size) < 1):
        found = f"--size is {size[0]} {size[1]}"
        message = f"{found}, expected two positive numbers, and --to onnx or torch; remove --size"
        raise UserError("MSA-CLI-003", message, setting="--size")
    run_config(arguments, ())
    checkpoint = find_checkpoint(arguments)
    out = arguments.out or (arguments.run or checkpoint.parent) / f"model{FORMATS[arguments.to].ending}"
    if out.is_dir() or out.resolve() == checkpoint.resolve():
        found = "a folder" if out.is_dir() else "the checkpoint itself"
        message = f"--out '{out}' is {found}, expected the name of a new file; give another --out"
        raise UserError("MSA-CLI-008", message, setting="--out")
    return ExportJob(checkpoint, arguments.to, out, size)
