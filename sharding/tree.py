"""A source of files: a folder, or one or several zip files seen as one folder.

Names are relative, with `/`, and can never lead out of the source. Both kinds can be sent to worker processes.
"""

import errno
import logging
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from msanet.documents import is_line
from msanet.errors import UserError
from msanet.files import is_junk

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**30
"""A file above this is refused before it is read: an image of 268 megapixels has at most 805 MB, uncompressed."""


class SourceLost(UserError):
    """A file that is there cannot be read; with its permissions or the disk put right, the same command continues."""


class Tree(Protocol):
    """What readers and the writer need of a source. Every `name` is a path in it; "" is its root.

    What operating systems leave in folders (msanet.files.is_junk) is not there.
    """

    def folders(self, name: str) -> list[str]:
        """Sorted names, without the path, of the folders directly in folder `name`; none where it does not exist."""

    def files(self, name: str) -> list[str]:
        """Sorted names, without the path, of the files directly in folder `name`; none where it does not exist."""

    def size(self, name: str) -> int:
        """Bytes of a file. Raises UserError where it is missing."""

    def stamp(self, name: str) -> int:
        """A number that changes when the file's content does: its time of change in ns, or the crc32 in a zip."""

    def read(self, name: str) -> bytes:
        """The whole file. Raises UserError where it is missing, unreadable, damaged or absurdly large."""

    def below(self, name: str) -> "Tree":
        """The same source with folder `name` as its root."""

    def show(self, name: str) -> str:
        """How to name a file to the user: with the folder or zip file that it lies in."""


def open_tree(paths: Sequence[Path]) -> Tree:
    """The source at `paths`: one folder, or one or more zip files. Raises UserError for anything else."""
    for path in paths:
        if not path.exists():
            raise UserError(
                "MSA-PACK-001",
                f"source '{path}' does not exist, expected a folder or zip files; check the path",
                setting="--source",
            )
    if len(paths) == 1 and paths[0].is_dir():
        return FolderTree(paths[0])
    for path in paths:
        if path.suffix.lower() != ".zip" or not path.is_file():
            raise UserError(
                "MSA-PACK-002",
                f"source '{path}' is not a zip file, expected one folder, or one or more zip files; unpack other archives, and "
                "give the folder that holds all",
                setting="--source",
            )
    return ZipTree.open(paths)


@dataclass(frozen=True)
class FolderTree:
    """Files below the folder `root`. Symbolic links are followed: they are the user's own way to lay out a disk."""

    root: Path

    def folders(self, name: str) -> list[str]:
        return sorted(entry.name for entry in self._entries(name) if _is(entry.is_dir))

    def files(self, name: str) -> list[str]:
        # Links to nothing too: what is left out has to be said, and is when the file is read.
        return sorted(entry.name for entry in self._entries(name) if _is(entry.is_file) or not os.path.exists(entry))

    def size(self, name: str) -> int:
        return self._stat(name)[0]

    def stamp(self, name: str) -> int:
        return self._stat(name)[1]

    def read(self, name: str) -> bytes:
        _check_size(self.show(name), self.size(name))
        try:
            return self._path(name).read_bytes()
        except OSError as error:
            raise _unreadable(self.show(name), error) from error

    def below(self, name: str) -> "FolderTree":
        return FolderTree(self._path(name))

    def show(self, name: str) -> str:
        return str(self.root / name)

    def _path(self, name: str) -> Path:
        return self.root / checked_name(name, str(self.root))

    def _entries(self, name: str) -> "list[os.DirEntry[str]]":
        path = self._path(name)
        try:
            with os.scandir(path) as entries:
                return [entry for entry in entries if not is_junk(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(str(path), error) from error

    def _stat(self, name: str) -> tuple[int, int]:
        try:
            stat = self._path(name).stat()
        except OSError as error:
            raise _unreadable(self.show(name), error) from error
        return stat.st_size, stat.st_mtime_ns


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link to itself
        return False


@dataclass(frozen=True)
class _ZipMember:
    archive: Path
    name: str
    size: int
    crc32: int


@dataclass
class ZipTree:
    """Members of zip files below the folder `root` in them; where two hold the same name, the first zip's counts."""

    archives: tuple[Path, ...]
    members: dict[str, _ZipMember]
    root: str = ""
    _children: dict[str, tuple[set[str], set[str]]] = field(init=False, repr=False)
    _handles: dict[Path, zipfile.ZipFile] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._handles = {}
        self._children = defaultdict(lambda: (set(), set()))
        for name in self.members:
            *folders, file = name.split("/")
            for depth, folder in enumerate(folders):
                self._children["/".join(folders[:depth])][0].add(folder)
            self._children["/".join(folders)][1].add(file)

    @classmethod
    def open(cls, paths: Sequence[Path]) -> "ZipTree":
        """List the members of all `paths`. Raises UserError where one is damaged or holds a name that leads out."""
        members: dict[str, _ZipMember] = {}
        again = []
        for path in paths:
            try:
                with zipfile.ZipFile(path) as archive:
                    infos = archive.infolist()
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise _damaged_zip(path, error) from error
            for info in infos:
                name = checked_name(_portable_name(info), str(path)).removeprefix("./")
                if name.endswith("/") or any(map(is_junk, name.split("/"))):
                    continue
                if name in members:
                    again.append(name)
                members.setdefault(name, _ZipMember(path.absolute(), info.filename, info.file_size, info.CRC))
        if again:
            logger.warning(
                f"{len(again)} names are in the zip files twice (such as '{again[0]}'); the first of each is taken"
            )
        return cls(tuple(paths), members)

    # Open files stay behind when the tree goes to a worker process, which opens its own on first use.
    def __reduce__(self) -> tuple[type["ZipTree"], tuple[tuple[Path, ...], dict[str, _ZipMember], str]]:
        return ZipTree, (self.archives, self.members, self.root)

    def folders(self, name: str) -> list[str]:
        return self._list(name, 0)

    def files(self, name: str) -> list[str]:
        return self._list(name, 1)

    def size(self, name: str) -> int:
        return self._member(name).size

    def stamp(self, name: str) -> int:
        return self._member(name).crc32

    def read(self, name: str) -> bytes:
        member = self._member(name)
        _check_size(self.show(name), member.size)
        try:
            if member.archive not in self._handles:
                self._handles[member.archive] = zipfile.ZipFile(member.archive)
            return self._handles[member.archive].read(member.name)
        # RuntimeError: the member is encrypted; KeyError: the file was exchanged since it was listed.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, KeyError) as error:
            raise _damaged_zip(member.archive, error) from error
        except OSError as error:
            raise _unreadable(str(member.archive), error) from error

    def below(self, name: str) -> "ZipTree":
        return ZipTree(self.archives, self.members, self._full(name))

    def show(self, name: str) -> str:
        full = self._full(name)
        archives = [self.members[full].archive] if full in self.members else self.archives
        return f"{', '.join(map(str, archives))}:{full}".rstrip(":")

    def _full(self, name: str) -> str:
        return str(PurePosixPath(self.root, checked_name(name, ", ".join(map(str, self.archives))))).removeprefix(".")

    def _list(self, name: str, kind: int) -> list[str]:
        found = self._children.get(self._full(name))
        return sorted(found[kind]) if found else []

    def _member(self, name: str) -> _ZipMember:
        try:
            return self.members[self._full(name)]
        except KeyError:
            raise UserError("MSA-PACK-005", f"'{self.show(name)}' does not exist; restore the file") from None


def _portable_name(info: zipfile.ZipInfo) -> str:
    """The name with `/`, not the backslashes of some tools of Windows, and in UTF-8, which macOS writes without saying so."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def checked_name(name: str, where: str) -> str:
    """`name` itself if it stays inside the source. Raises UserError for `..`, absolute and Windows paths."""
    parts = name.split("/")
    is_windows = "\\" in name or parts[0][1:2] == ":"
    if name.startswith("/") or ".." in parts or is_windows:
        raise UserError(
            "MSA-PACK-009", f"'{where}' names the file {name[:200]!r}, expected a path inside the source; fix it"
        )
    if not is_line(name):
        raise UserError(
            "MSA-PACK-009",
            f"'{where}' has the file {name[:200]!r}, expected a name in UTF-8 without control characters; rename it",
        )
    return name


def _check_size(shown: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise UserError(
            "MSA-PACK-007", f"'{shown}' has {size} bytes, expected at most {MAX_FILE_BYTES}; replace or remove the file"
        )


def _unreadable(shown: str, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP:
        return UserError("MSA-PACK-005", f"'{shown}' does not exist, or is a link to nothing; restore the file")
    return SourceLost(
        "MSA-PACK-006",
        f"'{shown}' cannot be read ({error.strerror}), expected a readable file; check its permissions and the disk",
    )


def _damaged_zip(path: Path, error: Exception) -> UserError:
    advice = "unpack it with its password, and give the folder" if "password" in str(error) else "download it again"
    return UserError(
        "MSA-PACK-008", f"zip file '{path}' cannot be read ({error}), expected a complete archive; {advice}"
    )
