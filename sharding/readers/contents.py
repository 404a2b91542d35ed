"""What lies in a folder, in words: for errors, and for what a packing leaves out."""

from collections import Counter
from collections.abc import Iterable, Iterator

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.errors import UserError
from sharding.readers.reader import DatasetListing
from sharding.tree import Tree

_NAMED = 8
_LISTS = "ImageSets"
_MOST_FOLDERS = 5000
"""So many are looked into, at most, for what is left out."""


def describe(tree: Tree, name: str = "") -> str:
    """`the folders a, b and 12 files (.jpg 10, .txt 2)`."""
    folders, files = folders_of(tree, name), files_of(tree, name)
    parts = []
    if folders:
        more = f" and {len(folders) - _NAMED} more" if len(folders) > _NAMED else ""
        parts.append(f"the folder{'s' * (len(folders) > 1)} {', '.join(folders[:_NAMED])}{more}")
    if files:
        parts.append(counted_endings(files))
    return " and ".join(parts) or "nothing"


def counted_endings(names: Iterable[str]) -> str:
    """`12 files (.jpg 10, .txt 2)`."""
    endings = Counter(f".{name.rpartition('.')[2].lower()}" if "." in name else "no ending" for name in names)
    shown = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(_NAMED))
    return f"{_files(endings.total())} ({shown}{', ...' if len(endings) > _NAMED else ''})"


def left_out(tree: Tree, found: DatasetListing) -> str:
    """What the source holds and the listing does not, each folder with its count of files; empty where that is nothing."""
    used = {
        path
        for pairs in found.splits.values()
        for pair in pairs
        for path in (pair.image, pair.label, pair.instances)
        if path
    }
    folders = {path.rpartition("/")[0] for path in used}
    above = {folder[:end] for folder in folders for end in range(len(folder)) if folder[end] == "/"} | {""}
    parts, budget = [], [_MOST_FOLDERS]
    waiting = [""]
    while waiting:
        folder = waiting.pop(0)
        names = [name for name in files_of(tree, folder) if f"{folder}/{name}".lstrip("/") not in used]
        if folder not in folders:
            names = [name for name in names if name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS]
        if names:
            parts.append((len(names), f"in '{folder or '.'}' {counted_endings(names)}"))
        for below in (f"{folder}/{name}".lstrip("/") for name in folders_of(tree, folder)):
            if below in folders or below in above:
                waiting.append(below)
            elif below != _LISTS and (count := _count(tree, below, budget)):
                parts.append((count, f"'{below}' ({'at least ' * (budget[0] <= 0)}{_files(count)})"))
    parts.sort(reverse=True)
    more = sum(count for count, _ in parts[_NAMED:])
    shown = [text for _, text in parts[:_NAMED]] + (
        [f"{_files(more)} in {len(parts) - _NAMED} more folders"] if more else []
    )
    return ", ".join(shown)


def folders_of(tree: Tree, name: str) -> list[str]:
    """The folders in a folder; none where it is closed to us, such as lost+found next to a dataset."""
    try:
        return tree.folders(name)
    except UserError:
        return []


def files_of(tree: Tree, name: str) -> list[str]:
    """The files in a folder; none where it is closed to us."""
    try:
        return tree.files(name)
    except UserError:
        return []


def _count(tree: Tree, folder: str, budget: list[int]) -> int:
    """Files in and below a folder, until `budget` folders were listed."""

    def walk(name: str) -> Iterator[int]:
        if budget[0] > 0:
            budget[0] -= 1
            yield len(files_of(tree, name))
            for below in folders_of(tree, name):
                yield from walk(f"{name}/{below}")

    return sum(walk(folder))


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"
