"""labelme: a JSON file of shapes for each image, which is in it or lies beside it.

Shapes become pixels as `labelme.utils.shapes_to_label` makes them: later ones on top, lines 10 pixels wide, points of radius 5.
"""

import argparse
import base64
from collections.abc import Iterator
from typing import Any

from msanet.logs import track
from sharding.readers.annotated import (
    AnnotatedImage,
    ImageFinder,
    Skipped,
    add_classes_option,
    all_files,
    by_split,
    folder_split,
    load_json,
    make_listing,
    named_classes,
    unreadable,
)
from sharding.readers.contents import files_of, folders_of
from sharding.readers.embedded import EmbeddedImages, embedded_name
from sharding.readers.reader import DatasetListing, Reader
from sharding.readers.shapes import DrawShapes, Shape
from sharding.tree import Tree

_EXPECTED = "a JSON file of labelme: shapes, imagePath, imageHeight and imageWidth"
_LISTS = ("labels.txt", "class_names.txt")
_KINDS = {
    None: ("polygon", 3),
    "polygon": ("polygon", 3),
    "oriented_rectangle": ("polygon", 4),
    "rectangle": ("rectangle", 2),
    "circle": ("circle", 2),
    "line": ("line", 2),
    "linestrip": ("line", 2),
    "point": ("point", 1),
}
"""shape_type -> (how Pillow draws it, points that it has at least)."""
_EXACT = ("rectangle", "circle", "point")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    add_classes_option(parser, f"{' or '.join(_LISTS)} of the source, or all labels by the alphabet")
    holes = "in a group (one label, one group_id) shapes inside of others are holes; labelme itself fills them"
    parser.add_argument("--group-holes", action="store_true", help=holes)


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All JSON files, by the folders of splits where there are some. Raises UserError where one cannot be read."""
    skipped, finder = Skipped(), ImageFinder(tree)
    paths = [path for path in all_files(tree, ".json")]
    splits = by_split(tree, {path: folder_split(path) for path in paths}, options, skipped)
    images = {
        split: [
            image
            for path in track(own, f"{split}: reading annotations", len(own), "files")
            if (image := _image(tree, path, finder, skipped)) is not None
        ]
        for split, own in splits.items()
    }
    finder.check_missing(tree.show(""), sum(map(len, images.values())), options.skip_bad)
    classes = named_classes(options.classes) or _listed(tree)
    decode = DrawShapes(group_holes=options.group_holes)
    return make_listing("labelme", EmbeddedImages(tree), images, classes, decode, skipped)


def _listed(tree: Tree) -> list[str] | None:
    name = next((name for name in _LISTS if name in files_of(tree, "")), None)
    if name is None:
        return None
    return [line.strip() for line in tree.read(name).decode("utf-8-sig", "replace").splitlines() if line.strip()]


def _image(tree: Tree, path: str, finder: ImageFinder, skipped: Skipped) -> AnnotatedImage | None:
    content = load_json(tree, path, _EXPECTED)
    if not isinstance(content, dict) or not {"shapes", "imagePath"} <= content.keys():
        skipped.add("JSON files without shapes and imagePath, which are not labelme's")
        return None
    try:
        size = (int(content["imageHeight"]), int(content["imageWidth"])) if content.get("imageHeight") else None
        shapes = [shape for row in content["shapes"] if (shape := _shape(row, skipped)) is not None]
        folder, name = path.rpartition("/")[0], str(content["imagePath"])
        data = content.get("imageData")
        image = embedded_name(path, base64.b64decode(data[:64])) if data else finder.need(name, folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(tree, path, f"{type(error).__name__}: {error}", _EXPECTED) from error
    return AnnotatedImage(path.removesuffix(".json"), image, path, size, shapes)


def _shape(row: dict[str, Any], skipped: Skipped) -> Shape | None:
    kind, label, points = row.get("shape_type"), str(row["label"]), row["points"]
    if kind == "mask" and row.get("mask"):
        (left, top), *_ = points
        return Shape(label, "bitmap", [int(left), int(top), row["mask"]], row.get("group_id"))
    if kind not in _KINDS:
        skipped.add(f"shapes of the type {kind}, which labelme does not draw either")
        return None
    name, count = _KINDS[kind]
    if len(points) < count or (name in _EXACT and len(points) != count):
        skipped.add(f"shapes of the type {kind or 'polygon'} with {len(points)} points")
        return None
    return Shape(label, f"pillow {name}", [[float(x), float(y)] for x, y in points], row.get("group_id"))


def _is_root(tree: Tree, name: str) -> bool:
    return any(_is_labelme(tree, path) for path in _some(tree, name))


def _some(tree: Tree, name: str) -> Iterator[str]:
    """A few JSON files of a folder, and of those in it."""
    for folder in (name, *(f"{name}/{below}".lstrip("/") for below in folders_of(tree, name))):
        yield from [f"{folder}/{file}".lstrip("/") for file in files_of(tree, folder) if file.endswith(".json")][:2]


def _is_labelme(tree: Tree, path: str) -> bool:
    data = tree.read(path)
    return b'"shapes"' in data and b'"imagePath"' in data


LABELME = Reader(
    name="labelme",
    summary="labelme's JSON files, with the images in them or beside them",
    layout="*.json with shapes and imagePath, in one folder, in several or in train/, val/ and test/",
    landmarks=("*.json",),
    read=read,
    add_options=add_options,
    is_root=_is_root,
)
