"""What a storage of shards is: files that are read by byte range."""

from typing import NamedTuple, Protocol


class ByteRange(NamedTuple):
    """Bytes [start, stop) of a file; stop None: to its end. digest: sha256 of the shard that it belongs to.

    The digest names the content, so that a cache never serves the bytes of another version.
    """

    file: str
    digest: str
    start: int
    stop: int | None


class Storage(Protocol):
    """A folder of shards. Cheap to build and to send to a loader process; connects and opens on first use.

    location: as the user named it, for messages. All methods may be called from several threads. Faults of the
    storage itself (no such file, no connection within the deadline) are UserErrors that name the location; a read
    beyond a file's end returns what is there.
    """

    location: str

    def read_file(self, file: str, limit: int) -> bytes:
        """A small file, whole and never from a cache. UserError if it is missing or longer than `limit` bytes."""
        ...

    def read(self, extent: ByteRange, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length) of the file, which lie inside the extent; fewer where the file ends before."""
        ...

    def fetch(self, extent: ByteRange) -> None:
        """Bring an extent near, so that a later `read` does not wait. Local folders tell the kernel."""
        ...

    def invalidate(self, extent: ByteRange) -> bool:
        """Drop a local copy that turned out to be wrong. Whether reading again makes sense."""
        ...
