"""Lists of images: a name a line, as VOC has them, or what other tools make of them."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.documents import is_line
from msanet.errors import UserError
from sharding.tree import Tree

logger = logging.getLogger(__name__)

_FLAGS = ("1", "0", "-1")


@dataclass(frozen=True)
class ImageList:
    """ids: in the order of the file. labels: {id: path} where the file has them. excluded: lines whose flag is -1."""

    ids: tuple[str, ...]
    labels: dict[str, str]
    excluded: int


def read_list(tree: Tree, path: str) -> ImageList:
    """A name a line; or name and flag (1, 0, -1: as VOC's lists of one class); or the paths of image and label.

    Names may have an ending. Byte-order marks, line ends of Windows and empty lines are fine.
    """
    ids, labels, excluded, find = [], {}, 0, path_finder(tree)
    for line in list_lines(tree, path):
        columns = re.split(r"[\s,;]+", line)
        if len(columns) == 2 and columns[1] in _FLAGS:
            if columns[1] == "-1":
                excluded += 1
                continue
            line = columns[0]
        elif len(columns) == 2 and all(map(_has_ending, columns)):
            line = columns[0]
            labels[_name(line)] = find(columns[1])
        ids.append(_name(line))
    if again := len(ids) - len({*ids}):
        logger.warning(f"list '{tree.show(path)}' repeats names ({again} of {len(ids)} lines); each is packed once")
    return ImageList(tuple(dict.fromkeys(ids)), labels, excluded)


def list_lines(tree: Tree, path: str) -> list[str]:
    """The lines of a list that are not empty. Raises UserError where it is not text."""
    data = tree.read(path)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = data.decode(encoding, errors="replace")
    if "\0" in text or not is_line(text[:1000].replace("\n", " ").replace("\r", " ").replace("\t", " ")):
        raise UserError(
            "MSA-PACK-204",
            f"'{tree.show(path)}' is not text, expected a list with the name of an image a line; replace it",
        )
    return [*filter(None, map(str.strip, text.splitlines()))]


def _name(path: str) -> str:
    """`/JPEGImages/a.jpg` -> `a`."""
    name = re.split(r"[/\\]", path)[-1]
    return name.rpartition(".")[0] if _has_ending(name) else name


def _has_ending(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and name.count(".") > 0


def path_finder(tree: Tree) -> Callable[[str], str]:
    """A function from a path in a list to that in the source: lists begin at its root, or anywhere above."""

    @cache  # a folder is listed once, not for each of its files
    def files(folder: str) -> frozenset[str]:
        return frozenset(tree.files(folder))

    def find(path: str) -> str:
        parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".")]
        for first in range(len(parts)):
            if ".." not in parts and parts[-1] in files("/".join(parts[first:-1])):
                return "/".join(parts[first:])
        raise UserError(
            "MSA-PACK-041",
            f"a list names '{path}', which is not in '{tree.show('')}', expected all of them; restore it",
        )

    return find
