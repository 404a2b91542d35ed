"""Where shards are: a local folder, or a remote one that is read by byte ranges through a cache on each node."""

from pathlib import Path
from urllib.parse import unquote

from msanet.config import StorageConfig
from msanet.data.storage.base import ByteRange, Storage
from msanet.data.storage.local import LocalStorage
from msanet.errors import UserError
from msanet.secrets import MASK

__all__ = ["ByteRange", "LocalStorage", "Storage", "open_storage"]


def open_storage(location: str, settings: StorageConfig | None = None) -> Storage:
    """The storage at a path, or at a file://, http://, https://, s3:// or gs:// address.

    Raises UserError for an address that cannot be read, or when the library for it is not installed.
    """
    scheme, separator, rest = location.partition("://")
    if not separator:
        return LocalStorage(Path(location.removeprefix("file:")))
    if MASK in location:
        raise UserError(
            "MSA-DATA-024",
            f"'{location}' has {MASK} for a password or key, which no file of a run keeps; give the complete address again, to "
            "msanet train as data.path=..., to msanet evaluate as --data",
            setting="data.path",
        )
    if scheme == "file":
        return LocalStorage(Path(unquote(rest)))
    from msanet.data.storage.remote import open_remote  # its libraries take time to import, and may be missing

    return open_remote(location, settings or StorageConfig())
