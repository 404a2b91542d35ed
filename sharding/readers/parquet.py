"""Images and masks in parquet files, as Hugging Face datasets export them: columns of struct {bytes, path}."""

import argparse
import re
from collections import Counter

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.errors import UserError, nearest
from sharding.readers.annotated import Skipped, all_files, by_split
from sharding.readers.contents import files_of, folders_of
from sharding.readers.embedded import image_ending
from sharding.readers.folder import FOLDER, classes_of, mask_reader, spec_of
from sharding.readers.parquet_tree import ParquetTree, cell_name
from sharding.readers.reader import SPLIT_NAMES, DatasetListing, Reader, SamplePaths, make_pair
from sharding.tree import Tree

_IMAGES = ("image", "img", "pixel_values", "jpg", "photo", "rgb")
_MASKS = (
    "label", "labels", "mask", "masks", "annotation", "annotations", "segmentation", "semantic_segmentation", "segmentation_mask",
    "semantic_mask", "label_mask", "label_map", "ground_truth", "gt", "conditioning_image",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--image-column", metavar="NAME", help=f"column of the images (default: {_IMAGES[0]} or the like)"
    )
    parser.add_argument(
        "--mask-column", metavar="NAME", help=f"column of the masks (default: {', '.join(_MASKS[:3])} or the like)"
    )
    FOLDER.add_options(parser)


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All rows with an image and a mask. Raises UserError where there are no such columns, or no classes."""
    files = all_files(tree, ".parquet")
    skipped, cells = Skipped(), ParquetTree(tree)
    columns = _columns(cells, files[0], options)
    splits = by_split(tree, {path: _split(path) for path in files}, options, skipped)
    pairs = {split: _pairs(cells, split, own, columns, skipped) for split, own in splits.items()}
    skipped.log(tree.show(""), sum(map(len, pairs.values())))
    classes, path = classes_of(tree, options.classes)
    return DatasetListing(spec_of(classes), pairs, decode=mask_reader(classes, path, cells, pairs), tree=cells)


def _columns(cells: ParquetTree, path: str, options: argparse.Namespace) -> tuple[str, str]:
    """The columns of images and masks."""
    present = cells.image_columns(path)
    found: list[str] = []
    for option, asked, usual in (
        ("--image-column", options.image_column, _IMAGES),
        ("--mask-column", options.mask_column, _MASKS),
    ):
        chosen = asked if asked is not None else next((name for name in usual if name in present), None)
        if chosen is None and len(rest := [name for name in present if name not in found]) == 1 and found:
            chosen = rest[0]
        if chosen is None or chosen not in present:
            what = (
                f"no column '{chosen}' of images"
                if chosen
                else f"the columns of images {', '.join(present) or '(none)'}"
            )
            raise UserError(
                "MSA-PACK-760",
                f"'{cells.show(path)}' has {what}, expected one of images and one of masks (struct {{bytes, path}}); "
                f"{nearest(chosen, present) if chosen else f'name it with {option}'}",
                setting=option,
            )
        found.append(chosen)
    return found[0], found[1]


def _split(path: str) -> str:
    """`data/train-00000-of-00002.parquet` or `default/train/0000.parquet`: train; "" where no part says so."""
    words = [word for part in reversed(path.split("/")) for word in re.findall("[A-Za-z]+", part)]
    return next((word for word in words if word.lower() in SPLIT_NAMES), "")


def _pairs(
    cells: ParquetTree, split: str, files: list[str], columns: tuple[str, str], skipped: Skipped
) -> list[SamplePaths]:
    rows: list[tuple[str, int, str]] = []
    endings = {}
    for file in files:
        paths, has_mask = cells.paths(file, columns[0]), cells.is_filled(file, columns[1])
        endings[file] = image_ending(cells.first(file, columns[0]))
        rows += [(file, row, paths[row]) for row in range(len(paths)) if has_mask[row]]
        if has_mask.count(False):
            skipped.add("rows without a mask", has_mask.count(False))
    names = Counter(_stem(path) for _, _, path in rows)
    is_named = all(name and count == 1 for name, count in names.items())
    pairs = []
    for number, (file, row, path) in enumerate(rows):
        ending = path.rpartition(".")[2].lower()
        ending = ending if ending in IMAGE_EXTENSIONS else endings[file]
        source_id = _stem(path) if is_named else f"{split}-{number:06d}"
        image, mask = cell_name(file, row, columns[0], ending), cell_name(file, row, columns[1], "png")
        pairs.append(make_pair(source_id, image, mask))
    return sorted(pairs, key=lambda pair: pair.id)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def _is_root(tree: Tree, name: str) -> bool:
    folders = [name, *(f"{name}/{below}".lstrip("/") for below in folders_of(tree, name))]
    return any(file.endswith(".parquet") for folder in folders for file in files_of(tree, folder))


PARQUET = Reader(
    name="parquet",
    summary="images and masks in parquet, as Hugging Face datasets export them (needs pyarrow)",
    layout="<split>-*.parquet or <split>/*.parquet with columns of images and masks, and id2label.json or --classes",
    landmarks=("*.parquet",),
    read=read,
    add_options=add_options,
    is_root=_is_root,
)
