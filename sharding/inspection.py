"""`msanet inspect`: what a finished dataset holds, as tables and as a contact sheet of its samples.

Not `inspect.py`: that would hide Python's own module from whoever runs a file of this folder.
"""

import argparse
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path

import cv2
import numpy as np

from msanet.data.image.codec import decode_image, decode_label
from msanet.data.manifest import (
    MANIFEST_NAME,
    Manifest,
    SampleIndex,
    ShardInfo,
    SplitInfo,
    load_manifest,
    load_shard_index,
)
from msanet.datasets.image_format import ImageFormat
from msanet.errors import UserError, nearest
from msanet.report.bands import picture
from msanet.report.palette import RGB, UInt8, check_label, overlay
from sharding.shard_check import member_role, printable, read_member
from sharding.sheet import CELL, write_sheet

DEFAULT_SAMPLES = 12
MAX_SAMPLES = 400
"""A sheet of more would need gigabytes of memory, and no viewer opens it."""


@dataclass(frozen=True)
class LabeledSample:
    """One sample: image (H, W, 3) uint8 RGB, as pictures show it, and its label (H, W) of train ids."""

    split: str
    key: str
    image_HWC: np.ndarray
    label_HW: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `msanet inspect`."""
    parser.add_argument("shards", metavar="SHARDS", help=f"folder with {MANIFEST_NAME} and its shards")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="write a picture of samples with their labels")
    count = f"samples to look at, spread evenly over the splits (default {DEFAULT_SAMPLES})"
    parser.add_argument("--samples", type=int, default=DEFAULT_SAMPLES, metavar="N", help=count)
    parser.add_argument("--split", metavar="S", help="only this split (default: all)")


def run(args: argparse.Namespace) -> int:
    """Print the tables and write the sheet. Raises UserError for a wrong option or a sample that cannot be read."""
    if not 1 <= args.samples <= MAX_SAMPLES:
        raise UserError(
            "MSA-PACK-046",
            f"--samples is {args.samples}, expected 1 to {MAX_SAMPLES}; choose such a number",
            setting="--samples",
        )
    if args.sheet:
        require_sheet(args.sheet)
    folder = Path(args.shards)
    manifest = load_manifest(folder)
    splits = _chosen(manifest, args.split)
    sizes, cells, captions = [], [], []
    for sample in labeled_samples(folder, splits, args.samples):
        sizes.append(sample.label_HW.shape)
        if args.sheet:
            cells.append(cell(sample, manifest.palette))
            captions.append(printable(f"{sample.split} / {sample.key}"))
    parts = [_head(manifest, splits, sizes), split_table(splits), class_table(manifest.classes, splits)]
    parts += [band_table(manifest.image, splits)] if manifest.image else []
    if args.sheet:
        title = f"{manifest.name}: {len(cells)} of {sum(split.samples for split in splits.values())} samples"
        legend = [(printable(name), color) for name, color in zip(manifest.classes, manifest.palette, strict=True)]
        write_sheet(args.sheet, printable(title), cells, captions, legend)
        parts.append(f"wrote {args.sheet}")
    print("\n\n".join(parts))
    return 0


def require_sheet(path: Path) -> None:
    """Raise UserError unless a sheet can have this name."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UserError(
            "MSA-PACK-046",
            f"--sheet is '{path}', expected the name of a PNG file; choose for example sheet.png",
            setting="--sheet",
        )


def split_table(splits: Mapping[str, SplitInfo]) -> str:
    """One line for each split: samples, shards, sizes, and the share of its pixels that has a class."""
    width = _width(splits)
    lines = [f"{'split':<{width}}{'samples':>10}{'shards':>8}{'MB':>12}{'MB/shard':>10}{'labeled':>10}"]
    for name, split in splits.items():
        size = sum(shard.bytes for shard in split.shards) / 1e6
        labelled = _percent(sum(split.histogram), sum(split.histogram) + split.ignored)
        mean = size / max(1, len(split.shards))
        shards = len(split.shards)
        lines.append(
            f"{printable(name):<{width}}{split.samples:>10}{shards:>8}{size:>12.1f}{mean:>10.1f}{labelled:>10}"
        )
    return "\n".join(lines)


def class_table(classes: Sequence[str], splits: Mapping[str, SplitInfo]) -> str:
    """One line for each class: its share of the labeled pixels of each split."""
    width = _width(classes)
    columns = [max(10, len(name) + 2) for name in splits]
    head = "".join(f"{printable(name):>{column}}" for name, column in zip(splits, columns, strict=True))
    lines = [f"{'class':<{width}}{head}"]
    for k, name in enumerate(classes):
        shares = [_percent(split.histogram[k], sum(split.histogram)) for split in splits.values()]
        cells = "".join(f"{share:>{column}}" for share, column in zip(shares, columns, strict=True))
        lines.append(f"{printable(name):<{width}}{cells}")
    return "\n".join(lines)


def band_table(image: ImageFormat, splits: Mapping[str, SplitInfo]) -> str:
    """One line for each band of each split: its number in the source, mean, standard deviation and extreme values."""
    width = _width(splits)
    lines = [f"{image.describe()}, of {image.source_bands} of the source"]
    lines += [f"{'split':<{width}}{'band':>6}{'mean':>14}{'std':>14}{'lowest':>14}{'highest':>14}"]
    for name, split in splits.items():
        assert split.bands is not None, "checked with the manifest"
        values = zip(split.bands.mean, split.bands.std, split.bands.low, split.bands.high, strict=True)
        for number, row in zip(image.bands, values, strict=True):
            lines.append(f"{printable(name):<{width}}{number:>6}" + "".join(f"{value:>14.6g}" for value in row))
    return "\n".join(lines)


def labeled_samples(folder: Path, splits: Mapping[str, SplitInfo], count: int) -> Iterator[LabeledSample]:
    """`count` samples, or all where there are fewer: each split gives the same number, spread evenly over it."""
    for name, share in zip(splits, quotas([split.samples for split in splits.values()], count), strict=True):
        split = splits[name]
        wanted = [(2 * i + 1) * split.samples // (2 * share) for i in range(share)]
        ends = list(accumulate(shard.samples for shard in split.shards))
        for number, chosen in groupby(wanted, partial(bisect_right, ends)):
            shard = split.shards[number]
            first = ends[number] - shard.samples
            yield from _samples_of_shard(folder, name, shard, [sample - first for sample in chosen])


def quotas(sizes: Sequence[int], count: int) -> list[int]:
    """`count` dealt out one by one to the groups that still have something to give."""
    result = [0] * len(sizes)
    while sum(result) < min(count, sum(sizes)):
        for group, size in enumerate(sizes):
            if result[group] < size and sum(result) < count:
                result[group] += 1
    return result


def cell(sample: LabeledSample, palette: Sequence[RGB]) -> np.ndarray:
    """The image under the colors of its label, fitted into a square of CELL pixels: (h, w, 3) uint8 RGB."""
    try:
        check_label(sample.label_HW, len(palette))
    except ValueError as error:
        raise UserError("MSA-PACK-050", f"sample '{sample.key}': {error}") from error
    height, width = sample.label_HW.shape
    scale = CELL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Colored at twice the size, then halved: labels cannot be averaged, their colors can, which smooths the edges.
    double = 2 * size[0], 2 * size[1]
    image_HWC = _resize(sample.image_HWC, double, cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR)
    label_HW = _resize(sample.label_HW, double, cv2.INTER_NEAREST_EXACT)
    return _resize(overlay(image_HWC, label_HW, palette), size, cv2.INTER_AREA)


def _resize(array: np.ndarray, size: tuple[int, int], interpolation: int) -> UInt8:
    """cv2.resize to (width, height), typed."""
    return np.asarray(cv2.resize(array, size, interpolation=interpolation), dtype=array.dtype)


def _chosen(manifest: Manifest, split: str | None) -> dict[str, SplitInfo]:
    if split is None:
        return manifest.splits
    if split not in manifest.splits:
        raise UserError(
            "MSA-PACK-021", f"unknown split '{split}'; {nearest(split, list(manifest.splits))}", setting="--split"
        )
    return {split: manifest.splits[split]}


def _head(manifest: Manifest, splits: Mapping[str, SplitInfo], sizes: Sequence[tuple[int, ...]]) -> str:
    """Name, codec and the sizes that were met."""
    lines = [f"{printable(manifest.name)}: {manifest.num_classes} classes, codec {printable(manifest.codec)}"]
    if sizes:
        (low_H, low_W), (high_H, high_W) = np.min(sizes, axis=0), np.max(sizes, axis=0)
        span = f"{low_W}x{low_H}" + (f" to {high_W}x{high_H}" if (low_H, low_W) != (high_H, high_W) else "")
        lines.append(f"image size: {span} (in {len(sizes)} of {sum(s.samples for s in splits.values())} samples)")
    return "\n".join(lines)


def _samples_of_shard(folder: Path, split: str, shard: ShardInfo, numbers: Sequence[int]) -> Iterator[LabeledSample]:
    index = load_shard_index(folder, shard.file)
    with (folder / shard.file).open("rb") as file:
        for number in numbers:
            if number >= len(index.samples):
                raise UserError("MSA-PACK-047", _damaged(folder, shard, f"its index has {len(index.samples)} samples"))
            try:
                image_HWC, label_HW = _read(file.fileno(), index.samples[number])
            except UserError as error:
                raise UserError(
                    "MSA-PACK-047", _damaged(folder, shard, f"{index.samples[number].key}: {error}")
                ) from error
            yield LabeledSample(split, index.samples[number].key, image_HWC, label_HW)


def _read(tar: int, sample: SampleIndex) -> tuple[np.ndarray, np.ndarray]:
    members = {member_role(member.extension): member for member in sample.members}
    if not {"image", "label"} <= set(members):
        raise UserError("MSA-PACK-049", "holds no image or no label")
    image_HWC = decode_image(read_member(tar, members["image"]), members["image"].extension)
    label_HW = decode_label(read_member(tar, members["label"]), members["label"].extension)
    if image_HWC.shape[:2] != label_HW.shape:
        raise UserError(
            "MSA-PACK-049", f"image and label are of {image_HWC.shape[:2]} and {label_HW.shape}, expected one size"
        )
    return picture(image_HWC), label_HW


def _damaged(folder: Path, shard: ShardInfo, found: str) -> str:
    return (
        f"shard '{folder / shard.file}' is damaged ({printable(found)}), expected what was packed; "
        f"see all that is wrong with: msanet verify {folder}"
    )


def _width(names: Sequence[str] | Mapping[str, SplitInfo]) -> int:
    """Of a first column that holds these names."""
    return max(10, *(len(name) + 2 for name in names)) if names else 10


def _percent(part: int, whole: int) -> str:
    """`-` for nothing, so that a class that never occurs stands out from a rare one."""
    share = part / max(1, whole)
    return "-" if part == 0 else "<0.01%" if share < 0.0001 else f"{share:.2%}"
