"""A bounded cache of bytes in a folder of this node, shared by all its processes and threads.

    <folder>/entries/<key>   a header, then the bytes; appears complete, by a rename
    <folder>/partial/<key>   becomes the entry; the holder of its lock makes it, the others wait for the lock
    <folder>/total           bytes of all of these, and the lock under which files are counted

Locks are flock(2) on descriptors of their own: they hold between threads as well as processes, and the kernel frees
those of a killed process, so a file in partial/ with a free lock is abandoned. Files of another format version are made
again.
"""

import errno
import fcntl
import logging
import mmap
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msanet.errors import UserError
from msanet.logs import once

logger = logging.getLogger(__name__)

_KEY = re.compile(r"[A-Za-z0-9._@-]{1,200}")
FORMAT_VERSION = 1
_HEADER = struct.Struct("<3scIQ16s")  # magic, format version, crc32 and length of the bytes, boot
_MAGIC, _VERSION = b"msc", str(FORMAT_VERSION).encode()
_EVICT_SHARE = 16  # evict 1/16 of the cache more than needed, so that not every new file lists all of them


def _boot_id() -> bytes:
    """The same for all processes until the machine restarts; bytes written before a crash may be lost."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except OSError:
        return os.urandom(16)


_BOOT = _boot_id()


def cache_folder(chosen: Path | None) -> Path:
    """The folder of this node for caches: as chosen, or one of this user in the temporary folder."""
    if chosen is not None:
        return chosen
    folder = Path(tempfile.gettempdir()) / f"msanet-cache-{os.geteuid()}"
    with suppress(OSError):  # the cache inside it will report what is wrong
        _make_private_folder(folder)
    return folder


def _make_private_folder(folder: Path) -> None:
    """Make a folder; refuse one of another user, who could put wrong bytes there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owners = {folder.lstat().st_uid, folder.stat().st_uid}  # of a symbolic link, and of what it names
    if owners != {os.geteuid()}:
        raise UserError(
            "MSA-DATA-037",
            f"cache folder '{folder}' belongs to user {max(owners - {os.geteuid()})}, expected one of user "
            f"{os.geteuid()}; set storage.cache_dir to a folder of your own on a local disk",
            setting="storage.cache_dir",
        )


class NodeCache:
    """Bytes by key, at most `max_bytes` of them on disk. Cheap to build and to send to another process.

    evict: when full, drop the least recently used; otherwise nothing more is added. If the folder cannot be written, a
    warning is logged once and everything works as if the cache were full.
    """

    def __init__(self, folder: Path, max_bytes: int, evict: bool = True) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.evict = evict
        self._entries, self._partial = folder / "entries", folder / "partial"
        self._ready = False
        self._full_at = -1  # the total at which there was no room

    def get(self, key: str, make: Callable[[], bytes | bytearray]) -> memoryview:
        """The bytes of `key`, mapped from the cache; made now if it has none, by one process or thread at a time."""
        assert _KEY.fullmatch(key) and key.strip("."), key
        self._prepare()
        view = self._find(key)
        if view is not None:
            return view
        lock = self._lock(key)
        if lock is None:
            return memoryview(make()).toreadonly()
        stored = False
        try:
            view = self._find(key)  # made by another while we waited
            if view is None:
                self.invalidate(key)  # an incomplete entry
                data = make()
                stored = self._store(lock, key, data)
                view = (self._find(key) if stored else None) or memoryview(data).toreadonly()
            return view
        finally:
            if not stored:
                self._remove_partial(key, lock)
            os.close(lock)

    def has(self, key: str) -> bool:
        """Whether there is an entry, complete or not."""
        return (self._entries / key).exists()

    def invalidate(self, key: str) -> bool:
        """Drop an entry. Whether there was one."""
        path = self._entries / key
        try:
            path.stat()  # usually there is none, and no need of the lock
            with self._ledger() as ledger:
                size = path.stat().st_size
                path.unlink()
                self._write_total(ledger, self._total(ledger) - size)
        except OSError:
            return False
        return True

    def _find(self, key: str) -> memoryview | None:
        """A complete entry, mapped and marked as used now."""
        try:
            descriptor = os.open(self._entries / key, os.O_RDONLY)
        except OSError:
            return None
        try:
            view = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
            magic, version, crc, length, boot = _HEADER.unpack_from(view)
            if (magic, version, _HEADER.size + length) != (_MAGIC, _VERSION, len(view)):
                return None
            if boot != _BOOT and zlib.crc32(view[_HEADER.size :]) != crc:
                return None
            with suppress(OSError):  # a read-only cache works too
                if boot != _BOOT:  # it outlived a restart; not to be checked again
                    with open(self._entries / key, "r+b") as file:
                        file.seek(_HEADER.size - len(_BOOT))
                        file.write(_BOOT)
                os.utime(descriptor)
            return view[_HEADER.size :]
        except (OSError, ValueError, struct.error):  # an empty file cannot be mapped
            return None
        finally:
            os.close(descriptor)

    def _lock(self, key: str) -> int | None:
        """The file that becomes the entry, locked; None where it cannot be made."""
        path = self._partial / key
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                self._warn(error)
                return None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            except FileNotFoundError:
                pass
            except OSError as error:  # a file system without locks
                os.close(descriptor)
                self._warn(error)
                return None
            os.close(descriptor)  # became the entry, or was removed, while we waited

    def _store(self, lock: int, key: str, data: bytes | bytearray) -> bool:
        try:
            if not self._reserve(lock, _HEADER.size + len(data)):
                return False
            with open(lock, "wb", closefd=False) as file:
                file.write(_HEADER.pack(_MAGIC, _VERSION, zlib.crc32(data), len(data), _BOOT))
                file.write(data)
            os.replace(self._partial / key, self._entries / key)
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _reserve(self, lock: int, size: int) -> bool:
        """Give the file its final size, if there is room or eviction makes room."""
        if size > self.max_bytes:
            raise OSError(errno.EFBIG, f"{size} bytes are more than its limit of {self.max_bytes}")
        with self._ledger() as ledger:
            total, own = self._total(ledger), os.fstat(lock).st_size  # a killed process may have left it with a size
            if total - own + size > self.max_bytes and (self.evict or total != self._full_at):
                total = self._make_room(size - own)
                self._full_at = total
                self._write_total(ledger, total)
            if total - own + size > self.max_bytes:
                return False
            self._write_total(ledger, total - own + size)  # before the file grows: too much is safe, too little is not
            os.ftruncate(lock, size)
            return True

    def _make_room(self, size: int) -> int:
        """List all files and evict if wanted; the ledger is locked. Returns the bytes that are used now."""
        self._remove_abandoned()
        sizes, ages = {}, []
        for folder in (self._partial, self._entries):  # in this order: a file may become an entry meanwhile
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    sizes[entry.name] = status.st_size
                    if folder == self._entries:
                        ages.append((status.st_mtime_ns, entry.name))
        used = sum(sizes.values())
        if self.evict and used + size > self.max_bytes:
            for _, name in sorted(ages):
                if used + size <= self.max_bytes - self.max_bytes // _EVICT_SHARE:
                    break
                (self._entries / name).unlink(missing_ok=True)
                used -= sizes[name]
        return used

    def _remove_abandoned(self) -> int:
        """Remove files of killed processes. Returns the bytes that this freed."""
        freed = 0
        for path in list(self._partial.iterdir()):
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    status = os.fstat(descriptor)
                    if os.path.samestat(status, os.stat(path)):
                        path.unlink()
                        freed += status.st_size
                finally:
                    os.close(descriptor)
        return freed

    def _remove_partial(self, key: str, lock: int) -> None:
        with suppress(OSError):
            size = os.fstat(lock).st_size
            (self._partial / key).unlink()
            if size:
                with self._ledger() as ledger:
                    self._write_total(ledger, self._total(ledger) - size)

    @contextmanager
    def _ledger(self) -> Iterator[int]:
        descriptor = os.open(self.folder / "total", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _total(self, ledger: int) -> int:
        """The bytes used, as noted; counted if the note is missing, of another version or older than the last restart."""
        version, boot, total, *_ = *os.pread(ledger, 100, 0).split(b" "), b"", b"", b""
        if (version, boot) != (_VERSION, _BOOT.hex().encode()) or not total.isdigit():
            return sum(entry.stat().st_size for path in (self._partial, self._entries) for entry in os.scandir(path))
        return int(total)

    def _write_total(self, ledger: int, total: int) -> None:
        os.pwrite(ledger, b"%s %s %020d" % (_VERSION, _BOOT.hex().encode(), max(total, 0)), 0)

    def _prepare(self) -> None:
        if self._ready:
            return
        try:
            for folder in (self.folder, self._entries, self._partial):
                _make_private_folder(folder)
            with self._ledger() as ledger:
                self._write_total(ledger, self._total(ledger) - self._remove_abandoned())
            self._ready = True
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        self._ready = False  # the folder may have been removed; make it again
        message = (
            f"cache '{self.folder}' cannot store more ({error.strerror}); continuing without it, which is slower: free some "
            "space there, or change storage.cache_dir or the limits of the caches"
        )
        once(logger, logging.WARNING, message, key=f"cache {self.folder}")
