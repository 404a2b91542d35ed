"""One finished shard against its index, its line in the manifest and itself. Runs in a worker process.

A problem does not end the check, but what follows from it is left alone: bytes of a wrong crc32 are not decoded.
"""

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from msanet.data.image.codec import decode_instances, decode_label
from msanet.data.manifest import (
    MANIFEST_NAME,
    Member,
    SampleIndex,
    ShardIndex,
    ShardInfo,
    earlier_key,
    index_name,
    load_shard_index,
    safe_key,
)
from msanet.datasets import ignore_index, label_dtype
from msanet.errors import UserError
from sharding.photo_check import check_photo

_PICTURE = re.compile(r"(image|label|instances)\.[A-Za-z0-9]+")
_END = bytes(2 * tarfile.BLOCKSIZE)
"""Two blocks of zeros end a tar."""


@dataclass(frozen=True)
class Problem:
    """file: the one that is damaged. text: what was found there and what was expected."""

    file: str
    text: str

    def __str__(self) -> str:
        """One line, whatever the names in a damaged file hold."""
        return printable(f"{self.file}: {self.text}")


@dataclass(frozen=True)
class ShardReport:
    """keys: of the shard's samples. counts: its pixels of each class and, last, ignored ones; None if not all can be counted."""

    problems: tuple[Problem, ...]
    keys: tuple[str, ...] = ()
    counts: tuple[int, ...] | None = None


def printable(text: str) -> str:
    """`text` with question marks for what would move the cursor or cannot be written."""
    return "".join(char if char.isprintable() else "?" for char in text)


class _Facts(BaseModel):
    """The json of a sample."""

    model_config = ConfigDict(strict=True)
    id: str
    height: int
    width: int
    crc32: dict[str, int]


def check_shard(folder: Path, classes: Sequence[str], info: ShardInfo, on_sample: Callable[[], object]) -> ShardReport:
    """Compare all that the shard holds. on_sample is called after each sample and may raise to stop the work."""
    check = _Check(folder, info, classes)
    try:
        return check.run(on_sample)
    except OSError as error:
        name = Path(error.filename).name if error.filename else info.file
        check.add_problem(f"cannot be read ({os.strerror(error.errno or 0).lower()}), expected a readable file", name)
        return ShardReport(tuple(check.problems))


def read_member(descriptor: int, member: Member) -> bytes:
    """The member's bytes. Raises UserError unless they are all in the tar and have the crc32 of the index."""
    size = os.fstat(descriptor).st_size
    if member.offset + member.length > size:
        raise UserError("MSA-PACK-049", f"has {member.length} bytes, expected them to end inside the tar of {size}")
    try:
        data = os.pread(descriptor, member.length, member.offset)
    except OSError as error:
        raise UserError(
            "MSA-PACK-049", f"cannot be read ({os.strerror(error.errno or 0).lower()}), expected a working disk"
        ) from None
    if zlib.crc32(data) != member.crc32:
        raise UserError(
            "MSA-PACK-049", f"{len(data)} bytes have crc32 {zlib.crc32(data):08x}, expected {member.crc32:08x}"
        )
    return data


def member_role(extension: str) -> str:
    """`image`, `label`, `instances` or `json`; an extension that is none of them as it is."""
    return extension.partition(".")[0] if _PICTURE.fullmatch(extension) else extension


def differing_counts(stated: Sequence[int], counted: Sequence[int], classes: Sequence[str]) -> Iterator[str]:
    """A text for each class, and the ignored pixels, whose number of pixels is not what was counted."""
    names = [*(f"class '{name}'" for name in classes), "ignored pixels"]
    if len(stated) != len(counted):
        yield f"histogram has {len(stated) - 1} entries, expected {len(classes)}"
        return
    for name, claim, truth in zip(names, stated, counted, strict=True):
        if claim != truth:
            yield f"histogram says {claim} for {name}, expected {truth} as counted in the labels"


class _Check:
    """Collects the problems of one shard, and counts its pixels."""

    def __init__(self, folder: Path, info: ShardInfo, classes: Sequence[str]) -> None:
        self.folder, self.info, self.classes = folder, info, classes
        self.problems: list[Problem] = []
        self.ignored = ignore_index(len(classes))
        self.counts = np.zeros(self.ignored + 1, dtype=np.int64)
        self.uncounted = 0

    def add_problem(self, text: str, file: str = "") -> None:
        self.problems.append(Problem(file or self.info.file, text))

    def run(self, on_sample: Callable[[], object]) -> ShardReport:
        index, path = self._index(), self.folder / self.info.file
        if not path.is_file():
            self.add_problem(f"is missing, expected a file of {self.info.bytes} bytes")
            return ShardReport(tuple(self.problems))
        with path.open("rb") as file:
            self._compare_hash(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
            if index is None:
                return ShardReport(tuple(self.problems))
            before = len(self.problems)
            for sample in index.samples:
                self._sample(file.fileno(), sample)
                on_sample()
            if len(self.problems) == before:  # else the index says nothing sure about where the members end
                self._end(file.fileno(), [member for sample in index.samples for member in sample.members])
        counts = (*map(int, self.counts[: len(self.classes)]), int(self.counts[self.ignored]))
        if not self.uncounted:
            for text in differing_counts((*index.histogram, index.ignored), counts, self.classes):
                self.add_problem(text, index_name(self.info.file))
        keys = tuple(sample.key for sample in index.samples)
        return ShardReport(tuple(self.problems), keys, None if self.uncounted else counts)

    def _index(self) -> ShardIndex | None:
        """The index, compared with the manifest; None if it cannot be read."""
        name = index_name(self.info.file)
        try:
            index = load_shard_index(self.folder, self.info.file)
        except UserError as error:
            self.add_problem(str(error), name)
            return None
        for what, found, expected in (
            ("file", index.file, self.info.file),
            ("bytes", index.bytes, self.info.bytes),
            ("sha256", index.sha256, self.info.sha256),
            ("number of samples", len(index.samples), self.info.samples),
        ):
            if found != expected:
                self.add_problem(f"{what} is {found}, expected {expected} as in {MANIFEST_NAME}", name)
        return index

    def _compare_hash(self, size: int, sha256: str) -> None:
        if size != self.info.bytes:
            self.add_problem(f"has {size} bytes, expected {self.info.bytes} as in {MANIFEST_NAME}")
        if sha256 != self.info.sha256:
            self.add_problem(f"sha256 is {sha256}, expected {self.info.sha256} as in {MANIFEST_NAME}")

    def _sample(self, tar: int, sample: SampleIndex) -> None:
        roles = [member_role(member.extension) for member in sample.members]
        if sorted({*roles} - {"instances"}) != ["image", "json", "label"] or len({*roles}) != len(roles):
            found = ", ".join(member.extension for member in sample.members) or "nothing"
            self.add_problem(f"{sample.key}: holds {found}, expected one image, one label and one json")
        parts: dict[str, _Part] = {}
        for role, member in zip(roles, sample.members, strict=True):
            part = _Part(f"{sample.key}.{member.extension}", member)
            with self._noting(part):
                part.data = read_member(tar, member)
                parts[role] = part
                _check_header(tar, part.name, member)
        size = self._pixels(parts.get("image"), parts.get("label"))
        if "instances" in parts:
            with self._noting(parts["instances"]):
                _check_instances(parts["instances"], size)
        if "json" in parts:
            with self._noting(parts["json"]):
                _check_facts(parts["json"].data, sample, size)

    def _pixels(self, image: "_Part | None", label: "_Part | None") -> tuple[int, ...] | None:
        """Decode both and count the label; the size of the image, or else of the label, or None."""
        size: tuple[int, ...] | None = None
        self.uncounted += 1
        if image:
            with self._noting(image):
                size = check_photo(image.data, image.name)
        if label:
            with self._noting(label):
                label_HW = decode_label(label.data, label.name)
                if size and label_HW.shape != size:
                    self.add_problem(f"{label}: is {_size(label_HW.shape)}, expected {_size(size)} as its image")
                size = size or label_HW.shape
                self.counts += count_values(label_HW, len(self.classes))
                self.uncounted -= 1
        return size

    def _end(self, tar: int, members: Sequence[Member]) -> None:
        """The members fill the tar without a gap, up to its end mark: no reader finds more than the index has."""
        end = max((_after(member) for member in members), default=0)
        filled = sum(tarfile.BLOCKSIZE + _after(member) - member.offset for member in members)
        if filled != end:
            self.add_problem(f"the members of the index fill {filled} bytes, expected {end}, where the last one ends")
        if os.pread(tar, len(_END), end) != _END:
            self.add_problem(f"at byte {end}: goes on, expected the tar's end ({len(_END)} bytes of zero)")

    @contextmanager
    def _noting(self, part: "_Part") -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self.add_problem(f"{part}: {error}")


@dataclass
class _Part:
    """One file of a sample, as messages name it."""

    name: str
    member: Member
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.name} at byte {self.member.offset}"


def count_values(label_HW: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels (ignore_index + 1,) of each value. Raises UserError for a value that is no train id and not ignored."""
    ignored, dtype = ignore_index(num_classes), label_dtype(num_classes)
    if label_HW.dtype != dtype:
        raise UserError("MSA-PACK-050", f"label is of {label_HW.dtype}, expected {dtype}")
    counts = np.bincount(label_HW.ravel(), minlength=ignored + 1)
    unknown = [int(value) for value in np.flatnonzero(counts) if num_classes <= value != ignored]
    if unknown:
        raise UserError(
            "MSA-PACK-050", f"label holds the values {unknown}, expected 0 to {num_classes - 1} or {ignored}"
        )
    return counts


def _after(member: Member) -> int:
    """Where the next header of the tar begins: members are filled up to whole blocks."""
    return member.offset + -(-member.length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _check_header(tar: int, name: str, member: Member) -> None:
    """Readers of the whole tar go by the headers. Raises UserError if the one before the member is not its own."""
    try:
        block = os.pread(tar, tarfile.BLOCKSIZE, max(0, member.offset - tarfile.BLOCKSIZE))
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise UserError(
            "MSA-PACK-049", f"its tar header is damaged ({error}), expected one of the {member.length} bytes"
        ) from None
    if (header.name, header.size) != (name, member.length) or not header.isreg():
        raise UserError(
            "MSA-PACK-049",
            f"its tar header is for '{header.name}' of {header.size} bytes, expected '{name}' of {member.length}",
        )


def _check_instances(part: _Part, size: tuple[int, ...] | None) -> None:
    shape = decode_instances(part.data, part.name).shape
    if size and shape != size:
        raise UserError("MSA-PACK-049", f"is {_size(shape)}, expected {_size(size)} as its image")


def _check_facts(data: bytes, sample: SampleIndex, size: tuple[int, ...] | None) -> None:
    """Raise UserError unless the sample's json says what its key, index and decoded size say."""
    try:
        facts = _Facts.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise UserError(
            "MSA-PACK-034", f"is wrong at {where}: {first['msg']}, expected id, height, width and crc32"
        ) from None
    if sample.key not in (safe_key(facts.id), earlier_key(facts.id)):
        raise UserError("MSA-PACK-034", f"id is '{facts.id}', expected the id whose key is '{sample.key}'")
    if size and (facts.height, facts.width) != size:
        raise UserError("MSA-PACK-034", f"says {facts.width}x{facts.height}, expected {_size(size)} as decoded")
    for member in sample.members:
        role = member_role(member.extension)
        if role in ("image", "label", "instances") and facts.crc32.get(role) != member.crc32:
            raise UserError(
                "MSA-PACK-034",
                f"crc32 of the {role} is {facts.crc32.get(role)}, expected {member.crc32} as in the index",
            )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
