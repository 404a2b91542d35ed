"""The metadata next to the shards: `dataset.json` for the whole dataset and `<shard>.idx.json` for each tar.

The manifest says all that training needs before it opens a shard (classes, counts, sizes, hashes); the index of a shard
says where in the tar each member lies, so that a sample is read by position and checked by its crc32. Both are plain
JSON; both are checked when read, since everything after trusts them.
"""

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from msanet.datasets import IGNORE_INDEX
from msanet.errors import UserError

MANIFEST_NAME = "dataset.json"
BAD_SAMPLES_NAME = "bad-samples.jsonl"
"""The list of samples that packing skipped, next to the shards."""
SCHEMA_VERSION = 1
MAX_JSON_BYTES = 128 * 2**20
"""A manifest or index above this is refused rather than read (20,000 shards need about 5 MB, 100,000 samples 30 MB)."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)]
"""A name inside the dataset's folder: no separators, so it cannot lead out of it."""
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Line = Annotated[str, Field(pattern=r"^(?:[^\p{C}\p{Zl}\p{Zp}]|\x{200C}|\x{200D})+$", max_length=100)]
"""Text for people, without what would move a terminal's cursor; letters may be kept apart or joined (Persian, emoji)."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**62)]
"""Two of them added fit 64 bits."""
Byte = Annotated[int, Field(ge=0, le=255)]
Samples = Annotated[int, Field(ge=0, lt=2**27)]
"""Of a shard or split. The order takes up to 16 bytes for each, whether it is there or only claimed."""
MAX_KEY_BYTES = 80
"""A tar header has 100 bytes for the file name, which also holds the extension."""
Record = TypeVar("Record", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Record):
    """One tar file of a split. samples: how many it holds; bytes: its size; sha256: of the whole file."""

    file: FileName
    samples: Annotated[Samples, Field(ge=1)]
    bytes: Annotated[Count, Field(ge=1)]
    sha256: Sha256


class SplitInfo(_Record):
    """One split. histogram: labelled pixels per train id over the whole split; ignored: pixels with the ignore index."""

    samples: Samples
    shards: tuple[ShardInfo, ...]
    histogram: tuple[Count, ...]
    ignored: Count

    @model_validator(mode="after")
    def _counts_agree(self) -> "SplitInfo":
        total = sum(shard.samples for shard in self.shards)
        if total != self.samples:
            raise ValueError(f"split says {self.samples} samples, its shards hold {total}")
        return self


class Manifest(_Record):
    """`dataset.json`. classes and palette are indexed by train id; ids gives the dataset's own label id of each train id."""

    schema_version: int = SCHEMA_VERSION
    name: Line
    classes: Annotated[tuple[Line, ...], Field(min_length=1, max_length=IGNORE_INDEX)]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    ids: tuple[Byte, ...]
    ignore_index: Byte
    codec: Line
    splits: dict[SplitName, SplitInfo]

    @model_validator(mode="after")
    def _lengths_agree(self) -> "Manifest":
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {self.schema_version}, this version reads {SCHEMA_VERSION}; pack the dataset again"
            )
        if self.ignore_index != IGNORE_INDEX:
            raise ValueError(f"ignore_index is {self.ignore_index}, expected {IGNORE_INDEX}; pack the dataset again")
        if not len(self.classes) == len(self.palette) == len(self.ids):
            raise ValueError(
                f"{len(self.classes)} classes, {len(self.palette)} colors and {len(self.ids)} ids must be the same number"
            )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        for name, split in self.splits.items():
            if len(split.histogram) != len(self.classes):
                raise ValueError(
                    f"histogram of split '{name}' has {len(split.histogram)} entries, not {len(self.classes)}"
                )
        return self

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def split(self, name: str) -> SplitInfo:
        if name not in self.splits:
            raise UserError(
                "MSA-DATA-001",
                f"split '{name}' is not in dataset '{self.name}', which has: {', '.join(sorted(self.splits))}",
            )
        return self.splits[name]

    def require_labels(self, name: str) -> None:
        """Raise UserError if no pixel of a split has a class: a training on it would learn nothing, and not fail."""
        if not any(self.split(name).histogram):
            raise UserError(
                "MSA-DATA-103",
                f"split '{name}' of {self.name} has no labelled pixel, all {self.split(name).ignored} are ignored; check the ids "
                "and colors of its masks and pack it again, or choose another data.train_split",
                setting="data.train_split",
            )

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    def digest(self) -> str:
        """sha256 of the content; goes into every checkpoint, so that a run is never resumed on other data."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


class Member(_Record):
    """Where one file of a sample lies in its tar: extension such as `image.png`, byte offset and length, crc32."""

    extension: str
    offset: Count
    length: Count
    crc32: Annotated[int, Field(ge=0, lt=2**32)]


class SampleIndex(_Record):
    """One sample of a shard: its key and where each of its files lies."""

    key: str
    members: tuple[Member, ...]


class ShardIndex(_Record):
    """`<shard>.idx.json`. plan: digest of what the writer was asked for, by which a stopped run knows its finished shards."""

    schema_version: int = SCHEMA_VERSION
    file: FileName
    bytes: Count
    sha256: Sha256
    plan: str
    histogram: tuple[Count, ...]
    ignored: Count
    samples: tuple[SampleIndex, ...]


class IndexTable:
    """The samples of a ShardIndex as loader processes keep them: one text of all keys, and arrays; 0.6 MB instead of 12.

    (With 5,000 samples. What is looked up becomes a record again.)
    """

    def __init__(self, samples: tuple[SampleIndex, ...]) -> None:
        members = [member for sample in samples for member in sample.members]
        self._keys = "".join(sample.key for sample in samples)
        self._key_ends = np.cumsum([0, *(len(sample.key) for sample in samples)])
        self._member_ends = np.cumsum([0, *(len(sample.members) for sample in samples)])
        self._extensions = sorted({member.extension for member in members})
        numbers = {extension: number for number, extension in enumerate(self._extensions)}
        self._extension = np.array([numbers[member.extension] for member in members], dtype=np.int32)
        self._offset = np.array([member.offset for member in members], dtype=np.int64)
        self._length = np.array([member.length for member in members], dtype=np.int64)
        self._crc32 = np.array([member.crc32 for member in members], dtype=np.uint32)
        arrays = (self._key_ends, self._member_ends, self._extension, self._offset, self._length, self._crc32)
        self.bytes = 2048 + len(self._keys) + sum(array.nbytes for array in arrays)  # of memory, about

    def key(self, place: int) -> str:
        """The key of the sample at `place` in the shard."""
        return self._keys[self._key_ends[place] : self._key_ends[place + 1]]

    def sample(self, place: int) -> SampleIndex:
        """The sample at `place` in the shard."""
        return SampleIndex(key=self.key(place), members=tuple(map(self._member, self._members(place))))

    def span(self, places: range) -> tuple[int, int]:
        """Where in the shard the first of these samples starts and the last one ends."""
        last = self._members(places[-1])
        stops = [self._offset[number] + self._length[number] for number in last]
        return int(self._offset[self._members(places[0])[0]]), int(max(stops))

    def _members(self, place: int) -> range:
        return range(self._member_ends[place], self._member_ends[place + 1])

    def _member(self, number: int) -> Member:
        return Member(
            extension=self._extensions[self._extension[number]],
            offset=int(self._offset[number]),
            length=int(self._length[number]),
            crc32=int(self._crc32[number]),
        )


def index_name(shard_file: str) -> str:
    """`train-000000.tar` -> `train-000000.idx.json`."""
    return shard_file.removesuffix(".tar") + ".idx.json"


def load_manifest(folder: Path) -> Manifest:
    """Read and check `dataset.json`. Raises UserError with one sentence if it is not there or not sound."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise UserError(
            "MSA-DATA-002",
            f"'{folder}' holds no {MANIFEST_NAME}, expected a folder of shards; make one with: "
            f"python -m sharding NAME --source DIR --out {folder}",
        )
    return validate_json(Manifest, _read(path), str(path))


def load_shard_index(folder: Path, shard_file: str) -> ShardIndex:
    """Read and check the index of one shard."""
    path = folder / index_name(shard_file)
    if not path.is_file():
        raise UserError(
            "MSA-DATA-003", f"index '{path}' of shard '{shard_file}' is missing; copy it too, or pack the dataset again"
        )
    return validate_json(ShardIndex, _read(path), str(path))


def validate_json(kind: type[Record], data: bytes, where: str) -> Record:
    """`data` as `kind`; anything invalid becomes one UserError that names `where` it lies and the first thing wrong in it."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise UserError(
            "MSA-DATA-004", f"'{where}' is damaged at {place}: {first['msg']}; restore it or pack the dataset again"
        ) from None


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise UserError(
            "MSA-DATA-005",
            f"'{path}' has {size} bytes, expected at most {MAX_JSON_BYTES}; it is not a file written by msanet",
        )
    return path.read_bytes()


def safe_key(name: str) -> str:
    """A key for the sample of this name that WebDataset, tar and every file system take; two names never share one.

    Letters and digits of all alphabets, `_` and `-` stay (in the form NFC). Where other characters became `_`, or the name
    was cut to MAX_KEY_BYTES, `~` and a hash of the whole name follow: `a b` -> `a_b~c8687a08aa5d`.
    """
    plain = "".join(char if _stays(char) else "_" for char in unicodedata.normalize("NFC", name))
    if plain and plain == name and len(plain.encode()) <= MAX_KEY_BYTES:
        return plain
    suffix = "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return plain.encode()[: MAX_KEY_BYTES - len(suffix)].decode(errors="ignore") + suffix


def earlier_key(name: str) -> str:
    """The key that versions before 0.2 gave to this name; their shards are still read and verified."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _stays(char: str) -> bool:
    return (
        char in "_-" or char.isalnum() or unicodedata.category(char).startswith("M")
    )  # marks: vowels of Hindi and Thai
