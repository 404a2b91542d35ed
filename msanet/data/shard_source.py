"""Samples by number: located by manifest and index, read by byte range, checked by crc32."""

import re
import threading
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from msanet.data.image.codec import INSTANCES
from msanet.data.manifest import (
    MANIFEST_NAME,
    MAX_JSON_BYTES,
    IndexTable,
    Manifest,
    Member,
    SampleIndex,
    ShardIndex,
    ShardInfo,
    index_name,
    load_manifest,
    validate_json,
)
from msanet.data.shuffle_order import block_of
from msanet.data.storage import ByteRange, LocalStorage, Storage
from msanet.errors import UserError

try:
    from imagecodecs import deflate_crc32 as crc32  # 5 times as fast
except ImportError:
    crc32 = zlib.crc32

_INDEX_BYTES = 32 * 2**20
"""Memory for indexes: of 50 shards with 5,000 samples each, or 2,000 with 100."""
_KEY = re.compile(r"[^/\\]{1,255}")


def read_manifest(storage: Storage) -> Manifest:
    """The manifest of the shards in `storage`. Raises UserError if it is missing or not valid."""
    if isinstance(storage, LocalStorage):
        return load_manifest(storage.folder)
    data = storage.read_file(MANIFEST_NAME, MAX_JSON_BYTES)
    return validate_json(Manifest, data, f"{storage.location}/{MANIFEST_NAME}")


class ShardSource:
    """One split of a dataset in shards. Cheap to build and to send to a worker; shards are opened on first read.

    A sample is {'__key__': str, '__url__': str, 'image.tif': bytes, ...}, as in WebDataset.
    shuffle_block_bytes: of the shuffle order, so that bytes are fetched in the order's blocks.
    """

    def __init__(
        self, storage: Storage, split: str, manifest: Manifest | None = None, shuffle_block_bytes: int = 8 * 2**20
    ) -> None:
        self.storage = storage
        self.manifest = manifest or read_manifest(storage)
        self.split = split
        self.info = self.manifest.split(split)
        self.shuffle_block_bytes = shuffle_block_bytes
        self._ends = list(accumulate(shard.samples for shard in self.info.shards))
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, IndexTable] = OrderedDict()
        self._index_bytes = 0
        self._loading: dict[str, threading.Lock] = {}  # one thread loads the index of a shard
        self._fetching: set[ByteRange] = set()  # by other threads of this process

    def __reduce__(self) -> tuple[Any, ...]:  # locks and indexes belong to one process
        return ShardSource, (self.storage, self.split, self.manifest, self.shuffle_block_bytes)

    def __len__(self) -> int:
        return self.info.samples

    def read(self, sample: int) -> dict[str, Any]:
        """Sample number `sample` of the split, without its `json` and instance map, which training does not need.

        Raises UserError if its bytes are not those that were packed.
        """
        return self.names(sample) | self._read_members(sample, lambda extension: extension not in ("json", INSTANCES))

    def read_instances(self, sample: int) -> dict[str, Any]:
        """The member `instances.png` of a sample, if it has one. Raises UserError like `read`."""
        return self._read_members(sample, lambda extension: extension == INSTANCES)

    def fetch(self, sample: int) -> None:
        """Start to load the block that `read` will need. For threads that run ahead; `read` raises the errors again."""
        shard, index, row = self._locate(sample)
        byte_range = self._block_range(shard, index, row)
        with self._lock:
            if byte_range in self._fetching:
                return
            self._fetching.add(byte_range)
        try:
            self.storage.fetch(byte_range)
        finally:
            with self._lock:
                self._fetching.discard(byte_range)

    def key(self, sample: int) -> str:
        """The key of a sample. Raises UserError if the index of its shard cannot be read."""
        return self.names(sample)["__key__"]

    def names(self, sample: int) -> dict[str, str]:
        """__key__ and __url__ (its shard) of a sample, as in WebDataset."""
        shard, index, row = self._locate(sample)
        return {"__key__": index.key(row), "__url__": f"{self.storage.location}/{shard.file}"}

    def content_name(self, sample: int) -> str:
        """A name of the sample's content, the same for any copy of the shards: its shard's digest, and its row there."""
        shard, row = self._shard_and_row(sample)
        return f"{shard.sha256}-{row}"

    def _read_members(self, sample: int, is_wanted: Callable[[str], bool]) -> dict[str, Any]:
        shard, index, row = self._locate(sample)
        entry, byte_range = index.sample(row), self._block_range(shard, index, row)
        return {
            member.extension: self._read_member(byte_range, entry, member)
            for member in entry.members
            if is_wanted(member.extension)
        }

    def _read_member(self, byte_range: ByteRange, entry: SampleIndex, member: Member) -> bytes:
        data = self.storage.read(byte_range, member.offset, member.length)
        if not _is_valid(data, member) and self.storage.invalidate(byte_range):
            data = self.storage.read(byte_range, member.offset, member.length)  # the local copy was damaged
        if not _is_valid(data, member):
            raise UserError(
                "MSA-DATA-014",
                f"shard '{self.storage.location}/{byte_range.file}' is damaged: {entry.key}.{member.extension} at byte "
                f"{member.offset} has {len(data)} bytes of crc32 {zlib.crc32(data):08x}, expected {member.length} of "
                f"{member.crc32:08x}; copy or pack the shard again",
            )
        return data

    def _shard_and_row(self, sample: int) -> tuple[ShardInfo, int]:
        number = bisect_right(self._ends, sample)
        shard = self.info.shards[number]
        return shard, sample - (self._ends[number] - shard.samples)

    def _locate(self, sample: int) -> tuple[ShardInfo, IndexTable, int]:
        shard, row = self._shard_and_row(sample)
        with self._lock:
            index = self._known_index(shard)
            loading = self._loading.setdefault(shard.file, threading.Lock()) if index is None else None
        if loading is not None:
            with loading:  # the other threads wait: together they would take many times as long
                with self._lock:
                    index = self._known_index(shard)
                index = index or self._keep_index(shard, self._load_index(shard))
        assert index is not None
        return shard, index, row

    def _known_index(self, shard: ShardInfo) -> IndexTable | None:
        if shard.file in self._indexes:
            self._indexes.move_to_end(shard.file)
        return self._indexes.get(shard.file)

    def _keep_index(self, shard: ShardInfo, index: IndexTable) -> IndexTable:
        with self._lock:
            self._loading.pop(shard.file, None)
            self._indexes[shard.file] = index
            self._index_bytes += index.bytes
            while self._index_bytes > _INDEX_BYTES and len(self._indexes) > 1:
                self._index_bytes -= self._indexes.popitem(last=False)[1].bytes
        return index

    def _load_index(self, shard: ShardInfo) -> IndexTable:
        byte_range = ByteRange(index_name(shard.file), shard.sha256, 0, None)
        try:
            return self._parse_index(shard, byte_range)
        except UserError:
            if not self.storage.invalidate(byte_range):
                raise
            return self._parse_index(shard, byte_range)

    def _parse_index(self, shard: ShardInfo, byte_range: ByteRange) -> IndexTable:
        where = f"{self.storage.location}/{byte_range.file}"
        index = validate_json(ShardIndex, self.storage.read(byte_range, 0, MAX_JSON_BYTES), where)
        if not (index.bytes == shard.bytes and len(index.samples) == shard.samples and index.sha256 == shard.sha256):
            raise UserError(
                "MSA-DATA-015",
                f"index '{where}' is of another shard: {len(index.samples)} samples in {index.bytes} bytes, sha256 "
                f"{index.sha256[:8]}, expected {shard.samples} in {shard.bytes}, {shard.sha256[:8]}; copy shard and index again",
            )
        if not _is_in_order(index):
            raise UserError(
                "MSA-DATA-016",
                f"index '{where}' is damaged: its samples are not in the shard's order, or have names that are not valid; copy "
                "it or pack the dataset again",
            )
        return IndexTable(index.samples)

    def _block_range(self, shard: ShardInfo, index: IndexTable, row: int) -> ByteRange:
        block = block_of(row, shard.samples, shard.bytes, self.shuffle_block_bytes)
        return ByteRange(shard.file, shard.sha256, *index.span(block))


def _is_in_order(index: ShardIndex) -> bool:
    """Whether members follow each other inside the shard, as byte ranges need them, and keys are printable names."""
    end = 0
    for sample in index.samples:
        if not (sample.members and _KEY.fullmatch(sample.key) and sample.key.isprintable()):
            return False
        for member in sample.members:
            if member.offset < end or not member.extension.isprintable():
                return False
            end = member.offset + member.length
    return end <= index.bytes


def _is_valid(data: bytes, member: Member) -> bool:
    return len(data) == member.length and crc32(data) == member.crc32
