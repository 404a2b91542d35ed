"""Checks for images that a raw dataset has more than once, in one split or in several, by perceptual hash."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from msanet.doctor.diagnostics import Level
from msanet.doctor.folder_samples import Fingerprint, SampleCheck
from msanet.doctor.shards import MAX_SHARED

_MAX_DISTANCE = 6
"""Bits of 64 in which the hashes of two copies may differ."""
_MAX_DIFFERENCE, _NOISE, _OF_CONTRAST = 2.0, 0.25, 0.04
"""Mean difference of gray values between two copies: at most the first, and _NOISE + _OF_CONTRAST * standard deviation."""
_PAIRS_AT_ONCE = 2**22

Copies = tuple[Level, str, list[SampleCheck]]
"""Level, sentence and samples of one finding."""


def groups_of_copies(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """The positions of images that look the same, each group in order; images without a copy are in none."""
    hashes = np.array([one.hash for one in fingerprints], np.uint64)
    gray = np.array([np.frombuffer(one.gray, np.uint8) for one in fingerprints], np.float32)
    first = np.full(len(hashes), -1)
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(hashes)))
    for start in range(0, len(hashes), rows):
        near = np.bitwise_count(hashes[start : start + rows, None] ^ hashes[None, start:]) <= _MAX_DISTANCE
        for row in np.flatnonzero(near.sum(axis=1) > 1):
            one = start + int(row)
            if first[one] < 0:  # else it is a copy of an earlier one
                others = start + np.flatnonzero(near[row])
                others = others[(others > one) & (first[others] < 0)]
                allowed = min(_MAX_DIFFERENCE, _NOISE + _OF_CONTRAST * float(gray[one].std()))
                first[others[np.abs(gray[others] - gray[one]).mean(axis=1) <= allowed]] = one
    groups: dict[int, list[int]] = defaultdict(list)
    for position in np.flatnonzero(first >= 0).tolist():
        groups[int(first[position])].append(position)
    return [[one, *others] for one, others in sorted(groups.items())]


def find_copies(samples: Sequence[SampleCheck], splits: Sequence[str]) -> Iterator[Copies]:
    """Findings of the samples that can be packed: in several splits, and more than once in one."""
    known = [(sample, sample.fingerprint) for sample in samples if sample.fingerprint]
    groups = [[known[position] for position in group] for group in groups_of_copies([one for _, one in known])]
    sizes = {split: sum(sample.split == split for sample in samples) for split in splits}
    for pair in combinations(splits, 2):
        yield from _in_two_splits(groups, *pair, sizes)
    for split in splits:
        yield from _in_one_split(groups, split)


_Group = list[tuple[SampleCheck, Fingerprint]]


def _in_two_splits(groups: Sequence[_Group], one: str, other: str, sizes: dict[str, int]) -> Iterator[Copies]:
    """First those of the same bytes, then those that only look the same. one: the split that is trained on."""
    same, alike = list[tuple[SampleCheck, SampleCheck]](), list[tuple[SampleCheck, SampleCheck]]()
    for group in groups:
        trained = [(sample, mark.file) for sample, mark in group if sample.split == one]
        for sample, mark in (member for member in group if member[0].split == other and trained):
            equal = [found for found, file in trained if file == mark.file]
            (same if equal else alike).append((sample, (equal or [trained[0][0]])[0]))
    for pairs, how in ((same, "have the bytes of one"), (alike, "look the same as one")):
        if pairs:
            found, copy = pairs[0]
            level: Level = "fault" if pairs is same and len(pairs) > MAX_SHARED * sizes[other] else "warning"
            text = (
                f"{len(pairs)} of the {sizes[other]} images of {other} {how} of {one}, expected none (such as "
                f"'{found.image}' and '{copy.image}'); fix the lists of the splits"
            )
            yield level, text, [sample for couple in pairs for sample in couple]


def _in_one_split(groups: Sequence[_Group], split: str) -> Iterator[Copies]:
    same, alike = list[SampleCheck](), list[SampleCheck]()
    for group in groups:
        members = [(sample, mark.file) for sample, mark in group if sample.split == split]
        for number, (sample, file) in enumerate(members):
            if number:
                (same if any(file == earlier for _, earlier in members[:number]) else alike).extend(
                    [members[0][0], sample]
                )
    levels: tuple[Level, Level] = ("warning", "advice")
    for level, found, how in zip(levels, (same, alike), ("have the bytes of", "look the same as"), strict=True):
        if found:
            text = (
                f"images of {split} that {how} another one of it: {len(found) // 2}, expected none (such as "
                f"'{found[1].image}' and '{found[0].image}'); remove them unless they are meant"
            )
            yield level, text, found
