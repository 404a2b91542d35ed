"""The samples of a raw dataset, read by the code that packs them, without writing. Runs in worker processes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from msanet.errors import UserError
from sharding.notes import Notes, take_notes
from sharding.readers.reader import SamplePaths
from sharding.shard import PackingJob, encode_sample, read_pair
from sharding.workers import OnSample

_REDUCED, _HASHED, _COMPARED = (72, 64), (9, 8), (16, 16)
"""(width, height) that images are reduced to: first, for the hash, and to compare gray values."""


@dataclass(frozen=True)
class Item:
    """A sample to be checked, and its place in the listing."""

    split: str
    number: int
    pair: SamplePaths


@dataclass(frozen=True)
class Fingerprint:
    """By which copies of an image are found.

    file: digest of its bytes. hash: 64 bits, each whether a gray value is above the next one (difference hash, dHash).
    gray: 16x16 gray values.
    """

    file: bytes
    hash: int
    gray: bytes


@dataclass(frozen=True)
class SampleCheck:
    """What packing would make of one sample.

    image: its name for users. code, error: of the UserError with which packing refuses it. notes: what packing does to it
    and says. size: (height, width).
    """

    split: str
    number: int
    key: str
    image: str
    code: str = ""
    error: str = ""
    notes: Notes = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    image_is_label: bool = False
    fingerprint: Fingerprint | None = None


@dataclass(frozen=True)
class GroupCheck:
    """Some samples, and by split the pixels (256,) of each train id in those that can be packed."""

    samples: list[SampleCheck]
    histograms: dict[str, np.ndarray]


def check_samples(job: PackingJob, items: Sequence[Item], on_sample: OnSample) -> GroupCheck:
    """Read, decode and encode each sample as packing does. on_sample is called after each and may raise to stop the work."""
    samples, histograms = [], dict[str, np.ndarray]()
    take_notes()
    for item in items:
        sample = SampleCheck(item.split, item.number, item.pair.key, job.tree.show(item.pair.image))
        try:
            image, photo, label_HW = read_pair(job, item.pair)
            histogram = encode_sample(job, item.pair, image, photo, label_HW).histogram
        except UserError as error:
            sample = replace(sample, code=error.code, error=str(error))
        else:
            pixels_HWC = photo.pixels_HWC
            sample = replace(
                sample,
                size=pixels_HWC.shape[:2],
                image_is_label=bool((pixels_HWC == label_HW[..., None]).all()),
                fingerprint=fingerprint(image, pixels_HWC),
            )
            histograms[item.split] = histograms.get(item.split, 0) + histogram
        samples.append(replace(sample, notes=take_notes()))
        on_sample()
    return GroupCheck(samples, histograms)


def fingerprint(file: bytes, pixels_HWC: np.ndarray) -> Fingerprint:
    """That of an image, (H, W, 3) uint8 RGB."""
    small_HWC = cv2.resize(pixels_HWC, _REDUCED, interpolation=cv2.INTER_AREA)
    gray_HW = cv2.cvtColor(small_HWC, cv2.COLOR_RGB2GRAY)
    rows = cv2.resize(gray_HW, _HASHED, interpolation=cv2.INTER_AREA).astype(int)
    bits = np.packbits(rows[:, :-1] > rows[:, 1:])
    compared = cv2.resize(gray_HW, _COMPARED, interpolation=cv2.INTER_AREA)
    digest = hashlib.blake2b(file, digest_size=16).digest()
    return Fingerprint(digest, int.from_bytes(bits.tobytes(), "big"), compared.tobytes())
