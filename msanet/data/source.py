"""Samples by number: where each lies (manifest, index), its bytes by positioned reads, checked by crc32."""

import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any

from msanet.data.index import Manifest, SampleIndex, ShardIndex, load_manifest, load_shard_index
from msanet.errors import UserError

_OPEN_SHARDS = 64


class ShardSource:
    """One split of a dataset in shards. Cheap to build and to send to a worker: shards are opened when first read.

    A sample is {'__key__': str, '__url__': str, 'image.png': bytes, ...}, as WebDataset's own readers give it.
    """

    def __init__(self, folder: Path, split: str, manifest: Manifest | None = None) -> None:
        self.folder = folder
        self.manifest = manifest or load_manifest(folder)
        self.split = split
        self.info = self.manifest.split(split)
        self._ends = list(accumulate(shard.samples for shard in self.info.shards))
        self._open: OrderedDict[int, tuple[int, ShardIndex]] = OrderedDict()  # shard number -> file descriptor, index

    def __len__(self) -> int:
        return self.info.samples

    def read(self, sample: int) -> dict[str, Any]:
        """The sample with this number (0-based within the split). Raises UserError if its bytes are not what was packed."""
        shard, entry = self._locate(sample)
        descriptor, index = self._shard(shard)
        result: dict[str, Any] = {"__key__": entry.key, "__url__": str(self.folder / index.file)}
        for member in entry.members:
            data = os.pread(descriptor, member.length, member.offset)
            if zlib.crc32(data) != member.crc32:
                raise UserError(
                    f"'{self.folder / index.file}' is damaged: {entry.key}.{member.extension} at byte {member.offset} has "
                    f"{len(data)} bytes of crc32 {zlib.crc32(data):08x}, expected {member.length} of {member.crc32:08x}; "
                    f"copy or pack the shard again"
                )
            result[member.extension] = data
        return result

    def key(self, sample: int) -> str:
        return self._locate(sample)[1].key

    def _locate(self, sample: int) -> tuple[int, SampleIndex]:
        shard = bisect_right(self._ends, sample)
        first = self._ends[shard - 1] if shard else 0
        return shard, self._shard(shard)[1].samples[sample - first]

    def _shard(self, number: int) -> tuple[int, ShardIndex]:
        if number not in self._open:
            self._open[number] = self._open_shard(number)
            while len(self._open) > _OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1][0])
        self._open.move_to_end(number)
        return self._open[number]

    def _open_shard(self, number: int) -> tuple[int, ShardIndex]:
        info = self.info.shards[number]
        index = load_shard_index(self.folder, info.file)
        path = self.folder / info.file
        if not path.is_file():
            raise UserError(f"shard '{path}' is missing, though {self.manifest.name}'s manifest lists it; copy it too")
        size = path.stat().st_size
        if not (
            size == info.bytes == index.bytes and len(index.samples) == info.samples and index.sha256 == info.sha256
        ):
            raise UserError(
                f"shard '{path}' has {size} bytes and {len(index.samples)} indexed samples, the manifest expects "
                f"{info.bytes} bytes and {info.samples} samples; copy the shard and its index again"
            )
        return os.open(path, os.O_RDONLY), index

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # descriptors belong to the process that opened them
