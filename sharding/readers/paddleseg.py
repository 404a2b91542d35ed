"""PaddleSeg and others: lists train.txt, val.txt, test.txt with the paths of an image and its mask in each line."""

import argparse
import re
from collections import Counter

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.errors import UserError
from sharding.readers.annotated import USUAL, Skipped
from sharding.readers.contents import files_of
from sharding.readers.folder import FOLDER, classes_of, mask_reader, spec_of
from sharding.readers.lists import list_lines, path_finder
from sharding.readers.reader import SPLIT_NAMES, DatasetListing, Reader, SamplePaths, Splits, choose_splits, make_pair
from sharding.tree import Tree


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of the lists. Raises UserError where a file of a list is missing."""
    lists = {name.removesuffix(".txt"): name for name in files_of(tree, "") if _is_list(name)}
    splits = choose_splits(options.splits, [*lists], USUAL, tree.show(""))
    skipped = Skipped()
    pairs: Splits = {split: _pairs(tree, lists[name], skipped) for split, name in splits.items()}
    skipped.log(tree.show(""), sum(map(len, pairs.values())))
    classes, path = classes_of(tree, options.classes)
    return DatasetListing(spec_of(classes), pairs, decode=mask_reader(classes, path, tree, pairs))


def _pairs(tree: Tree, name: str, skipped: Skipped) -> list[SamplePaths]:
    rows, find = [], path_finder(tree)
    for line in list_lines(tree, name):
        columns = _columns(line)
        if columns is None:
            skipped.add("lines of lists that do not have the paths of an image and a mask")
        else:
            rows.append((find(columns[0]), find(columns[1])))
    if not rows:
        raise UserError(
            "MSA-PACK-759",
            f"'{tree.show(name)}' has no line with the paths of an image and a mask, expected such as 'images/a.jpg "
            "labels/a.png'; pack lists of names with: msanet pack voc, or folders with: msanet pack folder",
            setting="--source",
        )
    rows = [*dict.fromkeys(rows)]
    stems = Counter(_stem(image) for image, _ in rows)
    pairs = [
        make_pair(_stem(image) if stems[_stem(image)] == 1 else image.rpartition(".")[0], image, mask)
        for image, mask in rows
    ]
    return sorted(pairs, key=lambda pair: pair.id)


def _columns(line: str) -> tuple[str, str] | None:
    """The two paths of a line, whichever separates them; names may hold spaces."""
    for match in re.finditer(r"[\s,;]+", line):
        columns = line[: match.start()], line[match.end() :]
        if all(path.rpartition(".")[2].lower() in IMAGE_EXTENSIONS for path in columns):
            return columns
    return None


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def _is_list(name: str) -> bool:
    return name.endswith(".txt") and name.removesuffix(".txt").lower() in SPLIT_NAMES


def _is_root(tree: Tree, name: str) -> bool:
    below = tree.below(name) if name else tree
    return any(_columns(line) for file in files_of(below, "") if _is_list(file) for line in list_lines(below, file)[:3])


PADDLESEG = Reader(
    name="paddleseg",
    summary="lists of images and masks, as PaddleSeg has them, with labels.txt or --classes",
    layout="train.txt, val.txt, test.txt with lines such as 'images/a.jpg labels/a.png', and labels.txt",
    landmarks=("train.txt|val.txt", "labels.txt|class_names.txt"),
    read=read,
    add_options=FOLDER.add_options,
    is_root=_is_root,
)
