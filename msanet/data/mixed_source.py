"""One split of several datasets, or of one under a label scheme."""

import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from msanet.data.manifest import Manifest
from msanet.data.mixture import MixedManifest, label_table
from msanet.data.sample_source import SampleSource
from msanet.data.samples import TRAIN_IDS


class MixedSource:
    """One split of several datasets as a SampleSource: their samples one after the other, labels as train ids of the mix."""

    def __init__(self, sources: Sequence[SampleSource], split: str, manifest: MixedManifest) -> None:
        self.manifest: Manifest = manifest
        self.sources, self.split, self._parts = list(sources), split, manifest.parts_of(split)
        self._ends = list(accumulate(map(len, self.sources)))
        self._tables = [label_table(part, manifest.num_classes) for part in self._parts]
        self._is_alone = len(manifest.parts) == 1

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, sample: int) -> dict[str, Any]:
        """Sample number `sample` of the split. Raises UserError for a bad one."""
        number, source, own = self._locate(sample)
        found = source.read(own) | self.names(sample)
        table = self._tables[number]
        return found if table is None else {**found, TRAIN_IDS: table}

    def read_instances(self, sample: int) -> dict[str, Any]:
        """The member `instances.png` of a sample, if it has one."""
        _, source, own = self._locate(sample)
        return source.read_instances(own)

    def fetch(self, sample: int) -> None:
        """Start to load what `read` will need."""
        _, source, own = self._locate(sample)
        source.fetch(own)

    def key(self, sample: int) -> str:
        """The key of a sample, after the name of its dataset where there are several."""
        return self.names(sample)["__key__"]

    def names(self, sample: int) -> dict[str, str]:
        """__key__ and __url__ of a sample, as in WebDataset."""
        number, source, own = self._locate(sample)
        names = source.names(own)
        return names if self._is_alone else {**names, "__key__": f"{self._parts[number].name}.{names['__key__']}"}

    def content_name(self, sample: int) -> str:
        """A name of the sample's content, which changes when the content or the meaning of its labels does."""
        number, source, own = self._locate(sample)
        table = self._tables[number]
        name = source.content_name(own)
        return name if table is None else f"{name}-{zlib.crc32(table.tobytes()):08x}"

    def _locate(self, sample: int) -> tuple[int, SampleSource, int]:
        number = bisect_right(self._ends, sample)
        return number, self.sources[number], sample - (self._ends[number] - len(self.sources[number]))
