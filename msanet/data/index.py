"""What lies beside the shards: `dataset.json` for the whole dataset and `<shard>.idx.json` for each tar.

The manifest says all that training needs before it opens a shard (classes, counts, sizes, hashes); the index of a shard
says where in the tar each member lies, so that a sample is read by position and checked by its crc32. Both are plain
JSON; both are checked when read, since everything after trusts them.
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from msanet.datasets import IGNORE_INDEX
from msanet.errors import UserError

MANIFEST_NAME = "dataset.json"
SCHEMA_VERSION = 1
MAX_JSON_BYTES = 512 * 2**20
"""A manifest or index above this is refused rather than read (20,000 shards need about 5 MB, 100,000 samples 30 MB)."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)]
"""A name inside the dataset's folder: no separators, so it cannot lead out of it."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Byte = Annotated[int, Field(ge=0, le=255)]
Record = TypeVar("Record", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Record):
    """One tar file of a split. samples: how many it holds; bytes: its size; sha256: of the whole file."""

    file: FileName
    samples: Annotated[int, Field(ge=1)]
    bytes: Annotated[int, Field(ge=1)]
    sha256: Sha256


class SplitInfo(_Record):
    """One split. histogram: labelled pixels per train id over the whole split; ignored: pixels with the ignore index."""

    samples: Count
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
    name: Annotated[str, Field(min_length=1, max_length=100)]
    classes: tuple[str, ...]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    ids: tuple[Byte, ...]
    ignore_index: Byte
    codec: str
    splits: dict[str, SplitInfo]

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
                f"{len(self.classes)} classes, {len(self.palette)} colours and {len(self.ids)} ids must be the same number"
            )
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
                f"split '{name}' is not in dataset '{self.name}', which has: {', '.join(sorted(self.splits))}"
            )
        return self.splits[name]

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


def index_name(shard_file: str) -> str:
    """`train-000000.tar` -> `train-000000.idx.json`."""
    return shard_file.removesuffix(".tar") + ".idx.json"


def load_manifest(folder: Path) -> Manifest:
    """Read and check `dataset.json`. Raises UserError with one sentence if it is not there or not sound."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise UserError(
            f"'{folder}' holds no {MANIFEST_NAME}, expected a folder of shards; make one with: "
            f"python -m sharding NAME --source DIR --out {folder}"
        )
    return parse_json(Manifest, path)


def load_shard_index(folder: Path, shard_file: str) -> ShardIndex:
    """Read and check the index of one shard."""
    path = folder / index_name(shard_file)
    if not path.is_file():
        raise UserError(f"index '{path}' of shard '{shard_file}' is missing; copy it too, or pack the dataset again")
    return parse_json(ShardIndex, path)


def parse_json(kind: type[Record], path: Path) -> Record:
    """Read `path` as `kind`; every fault becomes one UserError that names the file and the first thing wrong in it."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise UserError(f"'{path}' has {size} bytes, expected at most {MAX_JSON_BYTES}; it is not a file of ours")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise UserError(
            f"'{path}' is damaged at {where}: {first['msg']}; restore it or pack the dataset again"
        ) from None


def safe_key(text: str) -> str:
    """A sample key that WebDataset and every file system take: no dots (they start the extension) and no separators."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)
