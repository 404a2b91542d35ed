"""`msanet export`: a trained network as one file for use elsewhere; docs/deployment.md shows its use."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from msanet.api.settings import with_metadata_resize
from msanet.cli.output import bounds, interval_text, percent, signed
from msanet.cli.parser import Parser, at_least, new_parser, parse
from msanet.cli.run_arguments import add_run_arguments, data_words, find_checkpoint, run_config
from msanet.config import Config
from msanet.data.open_dataset import open_dataset
from msanet.data.sample_source import SampleSource
from msanet.errors import UserError
from msanet.evaluation.export_loss import ExportLoss, measure_export_loss
from msanet.inference.backends import load_model
from msanet.inference.export import FORMATS, QUANTIZABLE, export_network, export_quantized
from msanet.inference.export_calibration import calibration_images
from msanet.models.io import ModelMetadata, load_network, require_same_classes

_CALIBRATION_IMAGES = 64
_DETAILS = """\
The file takes RGB images of any size (or --size) with values 0 to 255, normalizes them itself and contains the model's
metadata. Its output is compared with PyTorch's first: where they differ, nothing is written. An int8 file is calibrated with
training images, and --measure evaluates what it loses in mIoU, with an interval, and how fast it is:

  msanet export --run RUN --to onnx --quantize int8 --measure

msanet evaluate and predict take .onnx and .xml files too: msanet evaluate --checkpoint model.onnx --data SHARDS"""


@dataclass(frozen=True)
class ExportJob:
    """What is to be exported.

    size: (height, width) of all images in pixels; None for any. calibrate: quantize to int8 with so many training images;
    None for float32. measure: evaluate it on `split`. config: of the run, or the defaults, with
    --data.
    """

    checkpoint: Path
    target: str
    out: Path
    size: tuple[int, int] | None
    calibrate: int | None
    measure: bool
    config: Config
    split: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    job = export_job(argv)
    network, metadata = load_network(job.checkpoint, torch.device("cpu"))
    sources = _open_splits(job, metadata)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export-", dir=job.out.parent) as folder:
        fp32 = Path(folder) / f"fp32{FORMATS[job.target].ending}" if job.calibrate and job.measure else None
        _export(job, network, metadata, sources, fp32)
        about = f"{metadata.name} with {len(metadata.classes)} classes of {metadata.dataset}, step {metadata.step}"
        print(f"{about}, written to {job.out}")
        if job.measure:
            first = load_model(fp32, torch.device("cpu")) if fp32 else (network, metadata)
            second = load_model(job.out, torch.device("cpu"))
            settings = with_metadata_resize(job.config.evaluation, metadata)
            loss = measure_export_loss(first, second, sources[job.split or ""], settings)
            print(_loss_table(job, loss))
    return 0


def _export(
    job: ExportJob, network: nn.Module, metadata: ModelMetadata, sources: dict[str, SampleSource], fp32: Path | None
) -> None:
    if job.calibrate is None:
        export_network(job.out, job.target, network, metadata, job.size)
        return
    settings = with_metadata_resize(job.config.evaluation, metadata)
    images = calibration_images(sources[job.config.data.train_split], job.calibrate, settings, job.size)
    export_quantized(job.out, job.target, network, metadata, images, job.size, fp32)


def _open_splits(job: ExportJob, metadata: ModelMetadata) -> dict[str, SampleSource]:
    """The splits that are read, by name; opened before anything is exported."""
    splits = {job.config.data.train_split} if job.calibrate else set()
    splits |= {job.split} if job.split and job.measure else set()
    if not splits:
        return {}
    dataset = open_dataset(job.config.data, job.config.storage)
    manifest = dataset.read_manifest()
    require_same_classes(metadata, manifest.classes, dataset.location)
    return {split: dataset.source(split, manifest) for split in splits}


def _loss_table(job: ExportJob, loss: ExportLoss) -> str:
    first = f"{job.target} fp32" if job.calibrate else "pytorch fp32"
    second = f"{job.target} {'int8' if job.calibrate else 'fp32'}"
    iou, speeds = loss.mean_iou, loss.images_per_second
    return "\n".join(
        [
            f"{'':<16} {'mIoU':>8} {'images/s':>10}",
            f"{first:<16} {percent(iou.first):>8} {speeds[0]:>10.2f}",
            f"{second:<16} {percent(iou.second):>8} {speeds[1]:>10.2f}",
            f"mIoU {signed(iou.difference.value)} percentage points (95 % interval "
            f"{interval_text(bounds(iou.difference), signed)}), {speeds[1] / speeds[0]:.2f} times the images/s",
            f"{loss.num_images} images of '{job.split}', resampled {loss.resamples} times (seed 0)",
            f"images/s: of the network alone, on the CPU, threads: {loss.threads}",
        ]
    )


def export_job(argv: Sequence[str] | None = None) -> ExportJob:
    """Read the command line. Raises UserError on a size or a file that makes no sense."""
    arguments = parse(_parser(), argv)
    size = tuple(arguments.size) if arguments.size else None
    if size and (arguments.to == "safetensors" or min(size) < 1):
        found = f"--size is {size[0]} {size[1]}"
        message = f"{found}, expected two positive numbers, and --to onnx, openvino or torch; remove --size"
        raise UserError("MSA-CLI-003", message, setting="--size")
    config = run_config(arguments, data_words(arguments.data))
    calibrate = _calibration_count(arguments)
    split = arguments.split or config.data.val_split
    _require_data(arguments, config, split)
    checkpoint = find_checkpoint(arguments)
    name = f"model{'.int8' if calibrate else ''}{FORMATS[arguments.to].ending}"
    out = arguments.out or (arguments.run or checkpoint.parent) / name
    _require_possible(out, checkpoint, arguments.to, arguments.measure)
    return ExportJob(checkpoint, arguments.to, out, size, calibrate, arguments.measure, config, split)


def _parser() -> Parser:
    parser = new_parser("export", "export --run RUN --to onnx", _DETAILS)
    add_run_arguments(parser, settings=False)
    parser.add_argument("--to", choices=sorted(FORMATS), required=True, help="format of the file")
    out_help = "the file to write (default: model.ENDING in the run, or next to the checkpoint)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=out_help)
    size_help = "the only size of images in pixels (default: any)"
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help=size_help)
    quantize_help = "weights and activations in 8 bits, by post-training static quantization (onnx, openvino)"
    parser.add_argument("--quantize", choices=["int8"], help=quantize_help)
    count_help = f"training images that ranges of activations are measured on (default {_CALIBRATION_IMAGES})"
    parser.add_argument("--calibration-images", type=at_least(1), metavar="N", help=count_help)
    measure_help = (
        "evaluate the file, and what it was made from, on a split: mIoU with the interval of the difference, images/s"
    )
    parser.add_argument("--measure", action="store_true", help=measure_help)
    data_help = "folder or address of shards to calibrate and measure with (default: the run's)"
    parser.add_argument("--data", metavar="SHARDS", help=data_help)
    parser.add_argument("--split", help="split that --measure evaluates (default: the run's validation split)")
    return parser


def _calibration_count(arguments: argparse.Namespace) -> int | None:
    """Training images to calibrate with, None for float32. Raises UserError for options that have no effect."""
    for option, value in (("--quantize", arguments.quantize), ("--measure", arguments.measure)):
        if value and arguments.to not in QUANTIZABLE:
            message = (
                f"{option} is given with --to {arguments.to}, expected {' or '.join(QUANTIZABLE)}; remove {option}"
            )
            raise UserError("MSA-CLI-006", message, setting=option)
    unused = {
        "--calibration-images": (arguments.calibration_images, arguments.quantize, "--quantize"),
        "--split": (arguments.split, arguments.measure, "--measure"),
        "--data": (arguments.data, arguments.quantize or arguments.measure, "--quantize or --measure"),
    }
    for option, (value, is_used, other) in unused.items():
        if value and not is_used:
            raise UserError(
                "MSA-CLI-006", f"{option} is given without {other}, expected both; remove {option}", setting=option
            )
    return (arguments.calibration_images or _CALIBRATION_IMAGES) if arguments.quantize else None


def _require_data(arguments: argparse.Namespace, config: Config, split: str | None) -> None:
    if (arguments.quantize or arguments.measure) and not config.data.source:
        message = "--data is not given, expected a folder of shards with --checkpoint; add --data SHARDS"
        raise UserError("MSA-CLI-007", message, setting="--data")
    if arguments.measure and split is None:
        found = "the run has no validation split (data.val_split=null)"
        message = f"{found}, expected a split to measure on; add --split SPLIT"
        raise UserError("MSA-CLI-601", message, setting="--split")


def _require_possible(out: Path, checkpoint: Path, target: str, measure: bool) -> None:
    """Raise UserError unless that file can be written."""
    if out.is_dir() or out.resolve() == checkpoint.resolve():
        found = "a folder" if out.is_dir() else "the checkpoint itself"
        message = f"--out '{out}' is {found}, expected the name of a new file; give another --out"
        raise UserError("MSA-CLI-008", message, setting="--out")
    ending = FORMATS[target].ending
    if (FORMATS[target].companion or measure) and out.suffix != ending:
        message = f"--out '{out}' does not end in {ending}, by which files of {target} are known; give another --out"
        raise UserError("MSA-CLI-008", message, setting="--out")
