"""How each dataset lies on disk. A new one is a file here with a `Reader`, and its line in READERS."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from msanet.errors import UserError
from sharding.readers.camvid import CAMVID
from sharding.readers.cityscapes import CITYSCAPES
from sharding.readers.coco import COCO
from sharding.readers.contents import describe, files_of, folders_of
from sharding.readers.folder import FOLDER
from sharding.readers.person_part import PERSON_PART
from sharding.readers.reader import DatasetListing, Reader, SamplePaths
from sharding.readers.voc import VOC
from sharding.tree import Tree, open_tree

READERS: dict[str, Reader] = {reader.name: reader for reader in (CAMVID, CITYSCAPES, COCO, FOLDER, PERSON_PART, VOC)}

__all__ = ["READERS", "DatasetListing", "SamplePaths", "Reader", "find_source", "open_source"]

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
    expected = (
        f"'{shown}' is not laid out as {reader.name}: it holds {describe(open_tree(paths))}, expected {reader.layout}"
    )
    for other in sorted(READERS.values(), key=lambda other: other is FOLDER):  # whose layout others have too
        if other is not reader and _looks_like(other, paths):
            raise UserError(
                "MSA-PACK-003",
                f"{expected}; this looks like {other.name}: run python -m sharding {other.name} --source {shown}",
                setting="--source",
            )
    raise UserError("MSA-PACK-003", f"{expected}; name the folder that holds it", setting="--source")


def find_source(paths: Sequence[Path]) -> tuple[Reader, Tree]:
    """The reader of the layout that lies at `paths`, and the tree at its root. Raises UserError where none knows it."""
    for reader in sorted(READERS.values(), key=lambda reader: reader is FOLDER):  # whose layout others have too
        root = _root(reader, paths)
        if root is not None:
            return reader, root
    shown = " ".join(map(str, paths))
    raise UserError(
        "MSA-PACK-730",
        f"'{shown}' is not laid out as any known dataset: it holds {describe(open_tree(paths))}, expected for example "
        f"{FOLDER.layout}; name the folder that holds it",
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
    for landmark in reader.landmarks:
        parent, _, wanted = f"{name}/{landmark}".lstrip("/").rpartition("/")
        if not fnmatch.filter(files_of(tree, parent) if "." in wanted else folders_of(tree, parent), wanted):
            return False
    return True
