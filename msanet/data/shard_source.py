"""Samples by number: where each lies (manifest, index), its bytes by positioned reads, checked by crc32."""

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
"""Memory for indexes: of 50 shards with 5,000 samples each, or of 2,000 with 100."""
_KEY = re.compile(r"[^/\\]{1,255}")
_OF_THIS_PROCESS = ("_lock", "_indexes", "_index_bytes", "_loading", "_under_way")


def read_manifest(storage: Storage) -> Manifest:
    """The manifest of the shards in `storage`. Raises UserError if it is not there or not sound."""
    if isinstance(storage, LocalStorage):
        return load_manifest(storage.folder)
    return validate_json(
        Manifest, storage.read_file(MANIFEST_NAME, MAX_JSON_BYTES), f"{storage.location}/{MANIFEST_NAME}"
    )


class ShardSource:
    """One split of a dataset in shards. Cheap to build and to send to a worker; shards are opened when first read.

    A sample is {'__key__': str, '__url__': str, 'image.tif': bytes, ...}, as WebDataset's own readers give it.
    shuffle_block_bytes: of the order, so that what is fetched at once is what the order needs at once.
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
        self._start()

    def __len__(self) -> int:
        return self.info.samples

    def read(self, sample: int) -> dict[str, Any]:
        """The sample with this number (0-based within the split). Raises UserError if its bytes are not what was packed.

        The members `json` and `instances.png` are left out: nothing in them is needed to train.
        """
        return self.names(sample) | self._read_members(sample, lambda extension: extension not in ("json", INSTANCES))

    def read_instances(self, sample: int) -> dict[str, Any]:
        """The member `instances.png` of a sample, empty where it was packed without. Raises UserError like `read`."""
        return self._read_members(sample, lambda extension: extension == INSTANCES)

    def fetch(self, sample: int) -> None:
        """Bring near what `read` will need, with all of its block. For threads that run ahead; errors are left to `read`."""
        shard, index, place = self._locate(sample)
        extent = self._extent(shard, index, place)
        with self._lock:
            if extent in self._under_way:
                return
            self._under_way.add(extent)
        try:
            self.storage.fetch(extent)
        finally:
            with self._lock:
                self._under_way.discard(extent)

    def key(self, sample: int) -> str:
        """The key of a sample. Raises UserError if its shard's index cannot be read."""
        return self.names(sample)["__key__"]

    def names(self, sample: int) -> dict[str, str]:
        """__key__ and __url__ (its shard) of a sample, as WebDataset's readers give them."""
        shard, index, place = self._locate(sample)
        return {"__key__": index.key(place), "__url__": f"{self.storage.location}/{shard.file}"}

    def content_name(self, sample: int) -> str:
        """A name of the sample's content, the same wherever the shards lie: digest of its shard, and place in it."""
        shard, place = self._shard_and_place(sample)
        return f"{shard.sha256}-{place}"

    def _read_members(self, sample: int, is_wanted: Callable[[str], bool]) -> dict[str, Any]:
        shard, index, place = self._locate(sample)
        entry, extent = index.sample(place), self._extent(shard, index, place)
        return {
            member.extension: self._read_member(extent, entry, member)
            for member in entry.members
            if is_wanted(member.extension)
        }

    def _read_member(self, extent: ByteRange, entry: SampleIndex, member: Member) -> bytes:
        data = self.storage.read(extent, member.offset, member.length)
        if not _is_sound(data, member) and self.storage.invalidate(extent):
            data = self.storage.read(extent, member.offset, member.length)  # the local copy had gone bad
        if not _is_sound(data, member):
            raise UserError(
                "MSA-DATA-014",
                f"shard '{self.storage.location}/{extent.file}' is damaged: {entry.key}.{member.extension} at byte "
                f"{member.offset} has {len(data)} bytes of crc32 {zlib.crc32(data):08x}, expected {member.length} of "
                f"{member.crc32:08x}; copy or pack the shard again",
            )
        return data

    def _shard_and_place(self, sample: int) -> tuple[ShardInfo, int]:
        number = bisect_right(self._ends, sample)
        shard = self.info.shards[number]
        return shard, sample - (self._ends[number] - shard.samples)

    def _locate(self, sample: int) -> tuple[ShardInfo, IndexTable, int]:
        shard, place = self._shard_and_place(sample)
        with self._lock:
            index = self._known_index(shard)
            loading = self._loading.setdefault(shard.file, threading.Lock()) if index is None else None
        if loading is not None:
            with loading:  # the other threads wait: together they would take many times as long
                with self._lock:
                    index = self._known_index(shard)
                index = index or self._keep_index(shard, self._load_index(shard))
        assert index is not None
        return shard, index, place

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
        extent = ByteRange(index_name(shard.file), shard.sha256, 0, None)
        try:
            return self._parse_index(shard, extent)
        except UserError:
            if not self.storage.invalidate(extent):
                raise
            return self._parse_index(shard, extent)

    def _parse_index(self, shard: ShardInfo, extent: ByteRange) -> IndexTable:
        where = f"{self.storage.location}/{extent.file}"
        index = validate_json(ShardIndex, self.storage.read(extent, 0, MAX_JSON_BYTES), where)
        if not (index.bytes == shard.bytes and len(index.samples) == shard.samples and index.sha256 == shard.sha256):
            raise UserError(
                "MSA-DATA-015",
                f"index '{where}' is of another version of its shard: it lists {len(index.samples)} samples in "
                f"{index.bytes} bytes, the manifest {shard.samples} in {shard.bytes} (sha256 {index.sha256[:8]}, expected "
                f"{shard.sha256[:8]}); copy the shard and its index again",
            )
        if not _is_in_order(index):
            raise UserError(
                "MSA-DATA-016",
                f"index '{where}' is damaged: its samples do not follow each other inside the shard, or have invalid "
                "names; copy it again or pack the dataset again",
            )
        return IndexTable(index.samples)

    def _extent(self, shard: ShardInfo, index: IndexTable, place: int) -> ByteRange:
        block = block_of(place, shard.samples, shard.bytes, self.shuffle_block_bytes)
        return ByteRange(shard.file, shard.sha256, *index.span(block))

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, IndexTable] = OrderedDict()
        self._index_bytes = 0
        self._loading: dict[str, threading.Lock] = {}  # one thread loads the index of a shard
        self._under_way: set[ByteRange] = set()  # being fetched by other threads of this process

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _OF_THIS_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def _is_in_order(index: ShardIndex) -> bool:
    """Whether all members lie in the shard one after the other, as extents need them, and keys can be shown and written."""
    end = 0
    for sample in index.samples:
        if not (sample.members and _KEY.fullmatch(sample.key) and sample.key.isprintable()):
            return False
        for member in sample.members:
            if member.offset < end or not member.extension.isprintable():
                return False
            end = member.offset + member.length
    return end <= index.bytes


def _is_sound(data: bytes, member: Member) -> bool:
    return len(data) == member.length and crc32(data) == member.crc32
