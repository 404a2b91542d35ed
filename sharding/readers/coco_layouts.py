"""Where tools other than MS-COCO put files of its form: Roboflow, Label Studio, labelme2coco, scripts."""

import re

from msanet.errors import UserError
from sharding.readers.contents import files_of, folders_of
from sharding.readers.reader import SPLIT_NAMES
from sharding.tree import Tree

ROBOFLOW = "_annotations.coco.json"
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_FOLDERS = ("annotations", "")
_WORDS = re.compile(rf"(?<![a-z])({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)
_LOOKED_AT = 12


def other_layouts(tree: Tree) -> dict[str, tuple[str, str]]:
    """{split: (annotation file, folder of its images)}; empty where no file has this form."""
    found = {
        folder: (f"{folder}/{ROBOFLOW}", folder)
        for folder in folders_of(tree, "")
        if ROBOFLOW in files_of(tree, folder)
    }
    if found:
        return found
    for folder in _FOLDERS:
        paths = [f"{folder}/{name}".lstrip("/") for name in files_of(tree, folder) if name.endswith(".json")][
            :_LOOKED_AT
        ]
        paths = [path for path in paths if _is_coco(tree, path)]
        if paths:
            return _by_split(tree, paths)
    return {}


def _by_split(tree: Tree, paths: list[str]) -> dict[str, tuple[str, str]]:
    words = [match[0] if (match := _WORDS.search(path.rpartition("/")[2])) else "" for path in paths]
    if len(paths) == 1:
        return {words[0] or "train": (paths[0], words[0] or "images")}
    if "" in words or len({SPLIT_NAMES[word.lower()] for word in words}) < len(words):
        raise UserError(
            "MSA-PACK-004",
            f"'{tree.show('')}' has several annotation files: {', '.join(paths)}; expected one, or one for each split with the "
            "split in its name, such as train.json and val.json; rename them, or move the others away",
            setting="--source",
        )
    return {word: (path, word) for word, path in zip(words, paths, strict=True)}


def _is_coco(tree: Tree, path: str) -> bool:
    data = tree.read(path)
    return data[:64].lstrip().startswith(b"{") and all(key in data for key in _KEYS)
