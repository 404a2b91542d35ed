"""What a storage of shards is: files that are read by byte range."""

from typing import NamedTuple, Protocol

from msanet.errors import UserError


class ByteRange(NamedTuple):
    """Bytes [start, stop) of a file; stop None: to its end.

    digest: sha256 of the shard that the file belongs to, so that a cache never serves bytes of another version.
    """

    file: str
    digest: str
    start: int
    stop: int | None


class Storage(Protocol):
    """A folder of shards. Cheap to build and to send to a loader process; connects and opens on first use.

    location: as the user named it, for messages. All methods may be called from several threads. Errors of the storage
    itself (no such file, no connection within the deadline) are UserErrors that name the location.
    """

    location: str

    def read_file(self, file: str, limit: int) -> bytes:
        """A complete small file, never from a cache. UserError if it is missing or longer than `limit` bytes."""
        ...

    def read(self, byte_range: ByteRange, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length) of the file, which lie in the range; fewer where the file ends before."""
        ...

    def fetch(self, byte_range: ByteRange) -> None:
        """Start to load a range, so that a later `read` does not wait. Local folders tell the kernel."""
        ...

    def invalidate(self, byte_range: ByteRange) -> bool:
        """Drop a local copy that turned out to be wrong. Whether reading again makes sense."""
        ...


def require_size(address: object, size: int, limit: int | None) -> None:
    """Raise UserError for a file that is larger than any that msanet writes."""
    if limit is not None and size > limit:
        raise UserError(
            "MSA-DATA-005",
            f"'{address}' has {size} bytes, expected at most {limit}; it is not a file written by msanet",
        )
