"""What the loader and the evaluator need of a split: samples by number, from shards or from where images and labels lie."""

from typing import Any, Protocol

from msanet.data.manifest import Manifest


class ReadableSource(Protocol):
    """What loader processes read from."""

    def read(self, sample: int) -> dict[str, Any]:
        """Sample number `sample` of the split, as in WebDataset, with bytes or arrays. Raises UserError for a bad one."""
        ...

    def fetch(self, sample: int) -> None:
        """Start to load what `read` will need. For threads that run ahead."""
        ...


class SampleSource(ReadableSource, Protocol):
    """One split of a dataset. Cheap to send to a loader process."""

    manifest: Manifest
    split: str

    def __len__(self) -> int: ...

    def read_instances(self, sample: int) -> dict[str, Any]:
        """The member `instances.png` of a sample, if it has one."""
        ...

    def key(self, sample: int) -> str:
        """The key of a sample."""
        ...

    def names(self, sample: int) -> dict[str, str]:
        """__key__ and __url__ of a sample, as in WebDataset."""
        ...

    def content_name(self, sample: int) -> str:
        """A name of the sample's content, which changes when the content does."""
        ...
