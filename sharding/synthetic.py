"""`msanet generate`: write procedural street scenes in Cityscapes' own folder layout."""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from msanet.errors import UserError
from msanet.files import atomic_file
from msanet.logs import ProgressBar
from sharding.street.scene import Scene, render
from sharding.workers import OnSample, run_groups

__all__ = ["Scene", "add_arguments", "generate", "parse_size", "render", "run"]

TRAIN_CITIES = ("arden", "brook", "calder")
VAL_CITIES = ("dunmore",)
FRAME = 19
"""Cityscapes labels the 20th frame of every snippet, so its file names all say 000019."""
MIN_SIDE, MAX_SIDE = 64, 8192
# Fixed, so that the bytes do not depend on the defaults of the installed OpenCV.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 4)


@dataclass(frozen=True)
class _Job:
    """One scene to draw and the folder root, split and city it goes to."""

    root: Path
    split: str
    city: str
    sequence: int
    seed: int
    index: int
    size: tuple[int, int]
    rare: float


def parse_size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` as (height, width) in pixels."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(
            "MSA-PACK-046",
            f"size is {text!r}, expected WIDTHxHEIGHT in pixels such as 512x256; write it like that",
            setting="--size",
        )
    size = int(parts[1]), int(parts[0])
    _check_size(size)
    return size


def generate(out: Path, images: int, size: tuple[int, int], seed: int = 0, workers: int = 1, rare: float = 1.0) -> None:
    """Write `images` scenes of `size` (height, width) under `out`; the last 20 percent (at least one) are val.

    The same `seed` and `rare` (see `render`) give the same bytes for any number of `workers`.
    """
    _check(out, images, size, seed, workers, rare)
    with _atomic_folder(out) as partial:
        jobs = _plan(partial, images, size, seed, rare)
        for folder in {path.parent for job in jobs for path in _paths(job)}:
            folder.mkdir(parents=True)
        with ProgressBar(images, "synthetic", unit="images") as bar:
            for _ in run_groups(_draw, None, [[job] for job in jobs], workers, bar.update):
                pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `msanet generate`."""
    parser.add_argument("--out", type=Path, required=True, help="dataset folder to write; new or empty")
    parser.add_argument("--images", type=int, required=True, help="how many scenes, train and val together")
    parser.add_argument("--size", required=True, metavar="WxH", help="width x height in pixels, such as 512x256")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes to draw with (default 1)")
    rare = "how many times as often there are walls, fences, cycles, riders, buses and trucks (default 1)"
    parser.add_argument("--rare", type=float, default=1.0, metavar="FACTOR", help=rare)


def run(args: argparse.Namespace) -> int:
    """Do what `add_arguments` declared and return the exit status; UserError where an option is wrong."""
    generate(args.out, args.images, parse_size(args.size), args.seed, args.workers, args.rare)
    return 0


def _check_size(size: tuple[int, int]) -> None:
    height, width = size
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise UserError(
            "MSA-PACK-046",
            f"size is {width}x{height}, expected each side from {MIN_SIDE} to {MAX_SIDE} pixels; choose such a size",
            setting="--size",
        )


def _check(out: Path, images: int, size: tuple[int, int], seed: int, workers: int, rare: float) -> None:
    """UserError for the first argument of `generate` that cannot be used."""
    if images < 2:
        raise UserError(
            "MSA-PACK-046",
            f"images is {images}, expected 2 or more (one for train, one for val); ask for more",
            setting="--images",
        )
    _check_size(size)
    if not 0 <= seed < 2**64:
        raise UserError(
            "MSA-PACK-046", f"seed is {seed}, expected 0 or more and below 2**64; choose such a seed", setting="--seed"
        )
    if workers < 1:
        raise UserError(
            "MSA-PACK-046", f"workers is {workers}, expected 1 or more; choose such a number", setting="--workers"
        )
    if not 0 < rare <= 10:
        raise UserError(
            "MSA-PACK-046",
            f"factor is {rare:g}, expected above 0 and at most 10; choose such a number",
            setting="--rare",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = "a folder with files in it" if out.is_dir() else "a file"
        raise UserError(
            "MSA-PACK-011",
            f"{out} is {found}, expected a new or empty folder; choose another --out or remove it",
            setting="--out",
        )


@contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling of `out` to write to, renamed to `out` at the end and removed where something failed."""
    out = out.absolute()
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        # A run that was killed leaves this folder; anything else of that name is not ours to remove.
        if not partial.is_dir() or {path.name for path in partial.iterdir()} - {"leftImg8bit", "gtFine"}:
            raise UserError(
                "MSA-PACK-012", f"{partial} is not left over from this command, expected no such path; move it away"
            )
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _plan(root: Path, images: int, size: tuple[int, int], seed: int, rare: float) -> list[_Job]:
    """Which scene goes where: equal runs of the train scenes to each train city, then the val scenes."""
    val = max(1, images // 5)
    jobs: list[_Job] = []
    for split, cities, count in (("train", TRAIN_CITIES, images - val), ("val", VAL_CITIES, val)):
        for city, part in zip(cities, np.array_split(np.arange(count), len(cities)), strict=True):
            for sequence in range(len(part)):
                jobs.append(_Job(root, split, city, sequence, seed, len(jobs), size, rare))
    return jobs


def _paths(job: _Job) -> tuple[Path, Path, Path]:
    """The image, label id and instance id files of a job."""
    stem = f"{job.city}_{job.sequence:06d}_{FRAME:06d}"
    images = job.root / "leftImg8bit" / job.split / job.city
    labels = job.root / "gtFine" / job.split / job.city
    return (
        images / f"{stem}_leftImg8bit.png",
        labels / f"{stem}_gtFine_labelIds.png",
        labels / f"{stem}_gtFine_instanceIds.png",
    )


def _draw(_: None, jobs: Sequence[_Job], on_image: OnSample) -> None:
    """Render each job and write its three files."""
    for job in jobs:
        scene = render(job.seed, job.index, job.size, job.rare)
        arrays: tuple[npt.NDArray[np.integer], ...] = (scene.image_HWC[..., ::-1], scene.label_HW, scene.instance_HW)
        for path, array in zip(_paths(job), arrays, strict=True):
            with atomic_file(path, lasting=False) as temporary:
                temporary.write_bytes(cv2.imencode(".png", array, _PNG)[1].tobytes())
        on_image()
