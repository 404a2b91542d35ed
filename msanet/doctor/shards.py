"""Checks of the shards: can they be read, and do the splits share images?"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from msanet.data.manifest import (
    BAD_SAMPLES_NAME,
    MAX_JSON_BYTES,
    Manifest,
    SampleIndex,
    ShardIndex,
    ShardInfo,
    index_name,
    validate_json,
)
from msanet.data.sample_source import SampleSource
from msanet.data.samples import decode_sample
from msanet.data.storage import ByteRange, Storage
from msanet.doctor.diagnostics import Found, Level, check
from msanet.errors import UserError
from sharding.photo_check import check_photo

MAX_SHARED = 0.01
"""Share of the validation images above which images that are also trained on are a fault; public datasets have a few."""
_MOST_COMPARED, _MOST_COMPARED_BYTES = 2000, 2**28
"""Images of a split that are read to compare their bytes."""
Checksum = tuple[int, int]
"""(length, crc32) of an image's bytes."""
Image = tuple[int, str]
"""(number in the split, key)."""
Checksums = dict[Checksum, list[Image]]
ReadImage = Callable[[int], bytes]
"""The bytes of an image, by its number in the split."""


@dataclass(frozen=True)
class Overlap:
    """Images of the validation split that are in the training split: keys, out of `compared` of all `candidates`.

    is_complete: these were compared with all images of the training split that have the same checksum.
    """

    keys: tuple[str, ...]
    compared: int
    candidates: int
    is_complete: bool = True


@dataclass(frozen=True)
class SampleStatistics:
    """Statistics of one decoded sample. size: (height, width); mean, square: of the values of each band and of their squares."""

    key: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    square: tuple[float, ...]
    brightest: float
    image_is_label: bool


def sample_statistics(image_HWC: np.ndarray, label_HW: np.ndarray, key: str) -> SampleStatistics:
    """Statistics of one sample, (H, W, C) of any type and (H, W) uint8."""
    pixels_P3 = image_HWC.reshape(-1, image_HWC.shape[2]).astype(np.float32)
    return SampleStatistics(
        key,
        (label_HW.shape[0], label_HW.shape[1]),
        tuple(float(value) for value in pixels_P3.mean(axis=0, dtype=np.float64)),
        tuple(float(value) for value in np.square(pixels_P3).mean(axis=0, dtype=np.float64)),
        float(image_HWC.max()),
        bool((image_HWC == label_HW[..., None]).all()),
    )


def sample_split(source: SampleSource, count: int) -> tuple[list[SampleStatistics], list[str]]:
    """(statistics, sentences about those that cannot be read) of `count` samples spread evenly over the split."""
    statistics, errors = [], []
    for number in evenly_spread(len(source), count):
        try:
            sample = source.read(number)
            for name in (
                name for name, data in sample.items() if name.startswith("image.") and isinstance(data, bytes)
            ):
                check_photo(sample[name], f"{sample['__url__']}:{sample['__key__']}.{name}")
            statistics.append(sample_statistics(*decode_sample(sample), sample["__key__"]))
        except UserError as error:
            errors.append(str(error))
    return statistics, errors


def evenly_spread(total: int, count: int) -> list[int]:
    """`count` numbers below `total`, or all of them, evenly spread."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


@check("shards")
def splits_exist(manifest: Manifest, wanted: Mapping[str, str]) -> Found:
    """wanted: {setting: split that it names}."""
    for setting, name in wanted.items():
        if name not in manifest.splits:
            has = ", ".join(sorted(manifest.splits)) or "none"
            yield "fault", f"{setting} is '{name}', expected a split of '{manifest.name}', which has: {has}"
        elif not manifest.splits[name].samples:
            yield "fault", f"{setting} is '{name}', which has no samples, expected some; pack it again"


@check("shards")
def readable(split: str, total: int, statistics: Sequence[SampleStatistics], errors: Sequence[str]) -> Found:
    """Whether the samples that were tried are complete; the first error is shown."""
    tried = len(statistics) + len(errors)
    if errors:
        what = f"{len(errors)} of {tried} samples of {split} cannot be read, expected all: {errors[0]}"
        yield "fault", f"{what}; `msanet verify` lists everything that is damaged"
    else:
        yield "ok", f"{tried} of {total} samples of {split} read and decoded"


@check("shards")
def skipped_samples(storage: Storage) -> Found:
    """What packing skipped since it was bad."""
    try:
        lines = storage.read_file(BAD_SAMPLES_NAME, MAX_JSON_BYTES).splitlines()
    except (UserError, OSError):  # most have no such file
        return
    if lines:
        first = json.loads(lines[0])["error"]
        what = f"{len(lines)} samples were skipped by packing, expected none ({first})"
        yield "warning", f"{what}; {BAD_SAMPLES_NAME} has them all"


def read_indexes(storage: Storage, shards: Iterable[ShardInfo]) -> Iterator[ShardIndex]:
    """The index of each shard. Raises UserError where one is missing or damaged."""
    for shard in shards:
        extent = ByteRange(index_name(shard.file), shard.sha256, 0, None)
        data = storage.read(extent, 0, MAX_JSON_BYTES)
        yield validate_json(ShardIndex, data, f"{storage.location}/{extent.file}")


def image_checksums(indexes: Iterable[ShardIndex], most: int) -> Checksums:
    """{(length, crc32) of the image's bytes: [(number in the split, key)]} of at most `most` samples."""
    found: Checksums = {}
    number = 0
    for index in indexes:
        for sample in index.samples:
            if number == most:
                return found
            found.setdefault(_image_checksum(sample), []).append((number, sample.key))
            number += 1
    return found


def image_reader(source: SampleSource) -> ReadImage:
    """Of the images of a split."""

    def read(number: int) -> bytes:
        sample = source.read(number)
        return next((data for name, data in sample.items() if name.startswith("image.")), b"")

    return read


def confirm_overlap(train: Checksums, val: Checksums, read_train: ReadImage, read_val: ReadImage) -> Overlap:
    """Compare the bytes of images with the same length and crc32.

    PNGs of one length collide often: they end with the CRC of their pixels, which leaves 16 bits of the whole file's.
    Of each split as many images are read as `_MOST_COMPARED_BYTES` allow, evenly spread.
    """
    common = [checksum for checksum in val if checksum in train]
    candidates = [(checksum, image) for checksum in common for image in val[checksum]]
    chosen = _affordable(candidates)
    checksums = {checksum for checksum, _ in chosen}
    opposite = [(checksum, image) for checksum in common if checksum in checksums for image in train[checksum]]
    others = _affordable(opposite)
    known = {_digest(read_train(number)) for _, (number, _) in others}
    keys = [key for _, (number, key) in chosen if _digest(read_val(number)) in known]
    is_complete = len(chosen) == len(candidates) and len(others) == len(opposite)
    return Overlap(tuple(keys), len(chosen), len(candidates), is_complete)


def _affordable(images: Sequence[tuple[Checksum, Image]]) -> list[tuple[Checksum, Image]]:
    total = sum(length for (length, _), _ in images)
    count = len(images) if total <= _MOST_COMPARED_BYTES else len(images) * _MOST_COMPARED_BYTES // total
    return [images[place] for place in evenly_spread(len(images), max(1, min(count, _MOST_COMPARED)))] if images else []


@check("overlap")
def train_val_overlap(train: Checksums, val: Checksums, overlap: Overlap, is_all: bool) -> Found:
    """Images of the same bytes in both splits; is_all: whether those are all images."""
    sizes = [sum(map(len, images.values())) for images in (train, val)]
    compared = "" if is_all else f" of the first {sizes[0]} and {sizes[1]}"
    if not overlap.is_complete:
        compared += f" (estimated from {overlap.compared} of {overlap.candidates} with a checksum in common)"
    if not overlap.keys:
        train_keys, val_keys = ({key for images in split.values() for _, key in images} for split in (train, val))
        same_key = len(train_keys & val_keys)
        more = f", though {same_key} keys occur in both" if same_key else ""
        yield "ok", f"no image{compared} is in both splits{more}"
        return
    shared = round(len(overlap.keys) / overlap.compared * overlap.candidates)
    what = f"{shared} images{compared} of the validation split (such as {overlap.keys[0]}) are trained on too"
    level: Level = "fault" if shared > MAX_SHARED * sizes[1] else "warning"
    yield level, f"{what}, byte for byte, expected none; fix the lists of the splits and pack again"


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _image_checksum(sample: SampleIndex) -> Checksum:
    member = next((member for member in sample.members if member.extension.startswith("image.")), sample.members[0])
    return member.length, member.crc32
