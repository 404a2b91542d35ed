"""The metadata next to the shards: `dataset.json` for the dataset and `<shard>.idx.json` for each tar.

The manifest has what training needs before it opens a shard (classes, counts, sizes, hashes); the index of a shard has
each member's offset in the tar and its crc32. Both are checked when read, since everything after trusts them.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from msanet.data.image.bands import BandStatistics, BandSums
from msanet.data.storage.local import LocalStorage
from msanet.datasets import IGNORE_INDEX_16, id_dtype, ignore_index
from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.errors import UserError

MANIFEST_NAME = "dataset.json"
BAD_SAMPLES_NAME = "bad-samples.jsonl"
"""The list of samples that packing skipped, next to the shards."""
SCHEMA_VERSION = 1
BANDS_SCHEMA_VERSION = 2
"""Of a dataset whose images are not 8-bit RGB, which versions before 0.3 cannot read; all others stay at SCHEMA_VERSION."""
LABELS_SCHEMA_VERSION = 3
"""Of a dataset of more than 255 classes, or whose own label ids are above 255; versions before 0.3 cannot read it either."""
UNPACKED = "unpacked"
"""Instead of a codec: images and labels are read from where they lie. Such a manifest exists in memory only."""
MAX_JSON_BYTES = 128 * 2**20
"""The largest manifest or index that is read (20,000 shards need about 5 MB, 100,000 samples 30 MB)."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)]
"""A name inside the dataset's folder: no separators, so it cannot leave the folder."""
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Line = Annotated[str, Field(pattern=r"^(?:[^\p{C}\p{Zl}\p{Zp}]|\x{200C}|\x{200D})+$", max_length=100)]
"""Text without control characters; zero-width joiners are allowed (Persian, emoji)."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**62)]
"""The sum of two fits 64 bits."""
Byte = Annotated[int, Field(ge=0, le=255)]
LabelValue = Annotated[int, Field(ge=0, le=IGNORE_INDEX_16)]
Samples = Annotated[int, Field(ge=0, lt=2**27)]
"""Of a shard or split. The order takes up to 16 bytes for each that the manifest claims."""
MAX_KEY_BYTES = 80
"""A tar header has 100 bytes for the file name, which also holds the extension."""
Record = TypeVar("Record", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Record):
    """One tar file of a split. samples: how many it holds; bytes: its size; sha256: of the file."""

    file: FileName
    samples: Annotated[Samples, Field(ge=1)]
    bytes: Annotated[Count, Field(ge=1)]
    sha256: Sha256


class SplitInfo(_Record):
    """One split. histogram: labeled pixels per train id; ignored: those of the ignore index; bands: if Manifest.image is set."""

    samples: Samples
    shards: tuple[ShardInfo, ...]
    histogram: tuple[Count, ...]
    ignored: Count
    bands: BandStatistics | None = None

    @model_validator(mode="after")
    def _counts_agree(self) -> "SplitInfo":
        total = sum(shard.samples for shard in self.shards)
        if total != self.samples:
            raise ValueError(f"split says {self.samples} samples, its shards hold {total}")
        return self


class Manifest(_Record):
    """`dataset.json`. classes, palette and ids are indexed by train id; ids are the dataset's own label ids.

    image: what all images are, if they were packed with --bands; None: 8-bit RGB.
    """

    schema_version: int = SCHEMA_VERSION
    name: Line
    classes: Annotated[tuple[Line, ...], Field(min_length=1, max_length=IGNORE_INDEX_16)]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    ids: tuple[LabelValue, ...]
    ignore_index: LabelValue
    codec: Line
    image: ImageFormat | None = None
    splits: dict[SplitName, SplitInfo]

    @model_validator(mode="after")
    def _lengths_agree(self) -> "Manifest":
        expected = schema_version(self.image, self.num_classes, self.ids)
        if self.schema_version != expected:
            raise ValueError(f"schema_version is {self.schema_version}, expected {expected}; pack the dataset again")
        if self.ignore_index != ignore_index(self.num_classes):
            expected, found = ignore_index(self.num_classes), f"ignore_index is {self.ignore_index}"
            raise ValueError(f"{found}, expected {expected} of {self.num_classes} classes; pack the dataset again")
        if not len(self.classes) == len(self.palette) == len(self.ids):
            counts = f"{len(self.classes)} classes, {len(self.palette)} colors and {len(self.ids)} ids"
            raise ValueError(f"there are {counts}, expected the same number of each")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        for name, split in self.splits.items():
            if len(split.histogram) != len(self.classes):
                raise ValueError(
                    f"histogram of split '{name}' has {len(split.histogram)} entries, not {len(self.classes)}"
                )
            if self.image and (split.bands is None or len(split.bands.mean) != self.image.channels):
                raise ValueError(f"split '{name}' lacks the statistics of {self.image.channels} bands")
        return self

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_format(self) -> ImageFormat:
        return self.image or RGB8

    @property
    def is_unpacked(self) -> bool:
        """Whether each split is a folder or a user's dataset, which stands here as one shard."""
        return self.codec == UNPACKED

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
                f"split '{name}' of {self.name} has no labeled pixel, all {self.split(name).ignored} are ignored; check the ids "
                "and colors of its masks and pack it again, or choose another data.train_split",
                setting="data.train_split",
            )

    def to_json(self) -> str:
        return self.model_dump_json(indent=1, exclude_none=True) + "\n"

    def digest(self) -> str:
        """sha256 of the content; every checkpoint has it, so that a run is never resumed on other data.

        Of unpacked data the content is names, classes and sizes: labels are counted only where a training needs it.
        """
        content = self
        if self.is_unpacked:
            uncounted = {"histogram": (0,) * self.num_classes, "ignored": 0}
            splits = {name: split.model_copy(update=uncounted) for name, split in self.splits.items()}
            content = self.model_copy(update={"splits": splits})
        return hashlib.sha256(content.to_json().encode()).hexdigest()


class Member(_Record):
    """One file of a sample in its tar: extension such as `image.png`, byte offset and length, crc32."""

    extension: str
    offset: Count
    length: Count
    crc32: Annotated[int, Field(ge=0, lt=2**32)]


class SampleIndex(_Record):
    """One sample of a shard: its key and its files."""

    key: str
    members: tuple[Member, ...]


class ShardIndex(_Record):
    """`<shard>.idx.json`. plan: digest of the writer's task, by which resumed packing knows its finished shards.

    bands: sums over the pixels of its images, if they were packed with --bands.
    """

    schema_version: int = SCHEMA_VERSION
    file: FileName
    bytes: Count
    sha256: Sha256
    plan: str
    histogram: tuple[Count, ...]
    ignored: Count
    samples: tuple[SampleIndex, ...]
    bands: BandSums | None = None


_MEMBER = np.dtype([("extension", "i4"), ("offset", "i8"), ("length", "i8"), ("crc32", "u4")])


class IndexTable:
    """The samples of a ShardIndex as arrays, for loader processes: 0.6 MB instead of 12 for 5,000 samples."""

    def __init__(self, samples: tuple[SampleIndex, ...]) -> None:
        members = [member for sample in samples for member in sample.members]
        self._keys = "".join(sample.key for sample in samples)
        self._key_ends = np.cumsum([0, *(len(sample.key) for sample in samples)])
        self._member_ends = np.cumsum([0, *(len(sample.members) for sample in samples)])
        self._extensions = sorted({member.extension for member in members})
        numbers = {extension: number for number, extension in enumerate(self._extensions)}
        rows = [(numbers[member.extension], member.offset, member.length, member.crc32) for member in members]
        self._table = np.array(rows, dtype=_MEMBER)
        arrays = (self._key_ends, self._member_ends, self._table)
        self.bytes = 2048 + len(self._keys) + sum(array.nbytes for array in arrays)  # of memory, about

    def key(self, row: int) -> str:
        """The key of sample number `row` of the shard."""
        return self._keys[self._key_ends[row] : self._key_ends[row + 1]]

    def sample(self, row: int) -> SampleIndex:
        """Sample number `row` of the shard."""
        members = (
            Member(extension=self._extensions[extension], offset=offset, length=length, crc32=crc32)
            for extension, offset, length, crc32 in self._members(row).tolist()
        )
        return SampleIndex(key=self.key(row), members=tuple(members))

    def span(self, rows: range) -> tuple[int, int]:
        """[start, stop) of these samples in the shard."""
        last = self._members(rows[-1])
        return int(self._members(rows[0])["offset"][0]), int((last["offset"] + last["length"]).max())

    def _members(self, row: int) -> np.ndarray:
        return self._table[self._member_ends[row] : self._member_ends[row + 1]]


def schema_version(image: ImageFormat | None, num_classes: int, ids: Sequence[int]) -> int:
    """That of a manifest: the lowest that can hold it."""
    if id_dtype(num_classes, ids) != np.uint8:
        return LABELS_SCHEMA_VERSION
    return SCHEMA_VERSION if image is None else BANDS_SCHEMA_VERSION


def index_name(shard_file: str) -> str:
    """`train-000000.tar` -> `train-000000.idx.json`."""
    return shard_file.removesuffix(".tar") + ".idx.json"


def load_manifest(folder: Path) -> Manifest:
    """Read and check `dataset.json`. Raises UserError if it is missing or not valid."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise UserError(
            "MSA-DATA-002",
            f"'{folder}' holds no {MANIFEST_NAME}, expected a folder of shards; make one with: "
            f"msanet pack NAME --source DIR --out {folder}",
        )
    return validate_json(Manifest, LocalStorage(folder).read_file(MANIFEST_NAME, MAX_JSON_BYTES), str(path))


def load_shard_index(folder: Path, shard_file: str) -> ShardIndex:
    """Read and check the index of one shard."""
    name = index_name(shard_file)
    return validate_json(ShardIndex, LocalStorage(folder).read_file(name, MAX_JSON_BYTES), str(folder / name))


def validate_json(kind: type[Record], data: bytes, where: str) -> Record:
    """`data` as `kind`. Raises UserError that names `where` and the first thing that is not valid."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(map(str, first["loc"])) or "the document"
        raise UserError(
            "MSA-DATA-004", f"'{where}' is damaged at {location}: {first['msg']}; restore it or pack the dataset again"
        ) from None


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
