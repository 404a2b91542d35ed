"""How each dataset lies on disk. A new one is a file here with a `Reader`, and its line in registry.py."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from msanet.errors import UserError
from sharding.readers.contents import describe, files_of, folders_of
from sharding.readers.reader import DatasetListing, Reader, SamplePaths
from sharding.readers.registry import READERS, find_reader, installed_readers, is_reader_name
from sharding.tree import Tree, open_tree

__all__ = [
    "READERS",
    "DatasetListing",
    "SamplePaths",
    "Reader",
    "find_reader",
    "find_source",
    "installed_readers",
    "is_reader_name",
    "open_source",
]

_NEAR, _MOST_FOLDERS = 2, 50
_SEARCH_DEPTH = 2
"""Archives wrap a dataset in up to two folders (VOCdevkit/VOC2012), and users name any of them."""


def open_source(reader: Reader, paths: Sequence[Path]) -> Tree:
    """The tree at `paths` with the dataset's root as its root.

    Raises UserError if it is not laid out as `reader` expects; the sentence shows the layout and names the dataset that
    it does look like.
    """
    shown = " ".join(map(str, paths))
    root = _root(reader, paths)
    if root is not None:
        return root
    tree = open_tree(paths)
    expected = (
        f"'{shown}' is not laid out as {reader.name}: it holds {describe(tree)}, expected {reader.layout}"
        f"{_missing(reader, tree)}"
    )
    others = [other for other in READERS.values() if other.name != reader.name]
    others.sort(key=lambda other: other.name == "folder")  # whose layout others have too
    if other := next((other for other in others if _looks_like(other, paths)), None):
        raise UserError(
            "MSA-PACK-003",
            f"{expected}; this looks like {other.name}: run msanet pack {other.name} --source {shown}",
            setting="--source",
        )
    nearly = [f"{other.name}{lacking}" for other in others if (lacking := _missing(other, tree))]
    more = f"; it is nearly {' or '.join(nearly[:_NEAR])}" if nearly else ""
    raise UserError("MSA-PACK-003", f"{expected}{more}; name the folder that holds it", setting="--source")


def _missing(reader: Reader, tree: Tree) -> str:
    """What the root lacks of a layout that it has a part of; empty where it has none of it, or all."""
    lacking = [landmark for landmark in reader.landmarks if not _holds_any(tree, "", landmark)]
    is_part = 0 < len(lacking) < len(reader.landmarks)
    return f" (of which {' and '.join(word.replace('|', ' or ') for word in lacking)} is missing)" if is_part else ""


def find_source(paths: Sequence[Path]) -> tuple[Reader, Tree]:
    """The reader of the layout that lies at `paths`, and the tree at its root. Raises UserError where none knows it."""
    for reader in sorted(READERS.values(), key=lambda reader: reader.name == "folder"):  # whose layout others have too
        root = _root(reader, paths)
        if root is not None:
            return reader, root
    shown = " ".join(map(str, paths))
    raise UserError(
        "MSA-PACK-730",
        f"'{shown}' is not laid out as any known dataset: it holds {describe(open_tree(paths))}, expected for example "
        f"{READERS['folder'].layout}; name the folder that holds it",
        setting="data.path",
    )


def _looks_like(reader: Reader, paths: Sequence[Path]) -> bool:
    try:
        return _root(reader, paths) is not None
    except UserError:  # several of them
        return False


def _root(reader: Reader, paths: Sequence[Path]) -> Tree | None:
    tree = open_tree(paths)
    found = _find(reader, tree)
    archives = [paths[0] / name for name in reader.archives]
    if found is None and archives and all(path.is_file() for path in archives):
        return _find(reader, open_tree(archives))
    return found


def _find(reader: Reader, tree: Tree) -> Tree | None:
    """The tree at the shallowest folder that holds all landmarks; UserError where two equally shallow ones do."""
    level = [""]
    for _ in range(_SEARCH_DEPTH + 1):
        roots = [name for name in level if _holds(tree, name, reader)]
        if len(roots) > 1:
            raise UserError(
                "MSA-PACK-004",
                f"'{tree.show('')}' holds several {reader.name} datasets: {', '.join(roots)}; choose one as --source",
                setting="--source",
            )
        if roots:
            return tree.below(roots[0]) if roots[0] else tree
        level = [f"{name}/{folder}".lstrip("/") for name in level for folder in folders_of(tree, name)]
    return None


def _holds(tree: Tree, name: str, reader: Reader) -> bool:
    if reader.is_root is not None:
        return reader.is_root(tree, name)
    return all(_holds_any(tree, name, landmark) for landmark in reader.landmarks)


def _holds_any(tree: Tree, name: str, landmark: str) -> bool:
    """Whether folder `name` holds one of the landmark's alternatives, `a|b`; `*` stands for any folder or part of a name."""
    return any(_holds_path(tree, name, path.split("/")) for path in landmark.split("|"))


def _holds_path(tree: Tree, name: str, parts: Sequence[str]) -> bool:
    first, *rest = parts
    if not rest:
        return bool(fnmatch.filter(files_of(tree, name) if "." in first else folders_of(tree, name), first))
    below = fnmatch.filter(folders_of(tree, name), first)[:_MOST_FOLDERS]
    return any(_holds_path(tree, f"{name}/{folder}".lstrip("/"), rest) for folder in below)
