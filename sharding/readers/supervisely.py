"""Supervisely: meta.json with the classes, and DATASET/ann/IMAGE.json for each DATASET/img/IMAGE.

Figures become pixels as in its SDK: bitmaps as they are, polygons with their holes by OpenCV; later ones on top.
"""

import argparse
from typing import Any

from PIL import ImageColor

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.logs import track
from sharding.readers.annotated import (
    AnnotatedImage,
    Skipped,
    add_classes_option,
    by_split,
    join,
    load_json,
    make_listing,
    named_classes,
    unreadable,
)
from sharding.readers.contents import files_of, folders_of
from sharding.readers.reader import SPLIT_NAMES, DatasetListing, Reader
from sharding.readers.shapes import DrawShapes, Shape
from sharding.tree import Tree

_META, _IMAGES, _ANNOTATIONS = "meta.json", "img", "ann"
_EXPECTED = "Supervisely's annotation of an image: size and objects"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    add_classes_option(parser, "those of meta.json")


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All images with an annotation; folders that have the name of a split are it, others together are one."""
    skipped = Skipped()
    datasets = [name for name in folders_of(tree, "") if {_IMAGES, _ANNOTATIONS} <= {*folders_of(tree, name)}]
    paths = {
        join(folder, _ANNOTATIONS, name): folder if folder.lower() in SPLIT_NAMES else ""
        for folder in datasets
        for name in files_of(tree, join(folder, _ANNOTATIONS))
        if name.endswith(".json")
    }
    beside = {folder: {*files_of(tree, join(folder, _IMAGES))} for folder in datasets}
    splits = by_split(tree, paths, options, skipped)
    images = {
        split: [
            _image(tree, path, beside[path.partition("/")[0]], len(datasets) > 1 and not paths[path], skipped)
            for path in track(own, f"{split}: reading annotations", len(own), "files")
        ]
        for split, own in splits.items()
    }
    colors = _classes(tree)
    classes = named_classes(options.classes) or [*colors]
    shown = {name: color for name, color in colors.items() if color is not None}
    return make_listing("supervisely", tree, images, classes, DrawShapes(), skipped, shown)


def _classes(tree: Tree) -> dict[str, Any]:
    """{name: color or None}, in the order of meta.json."""
    content = load_json(tree, _META, "Supervisely's meta.json: classes with title, shape and color")
    try:
        rows = [(str(row["title"]), str(row.get("color", ""))) for row in content["classes"]]
        return {name: ImageColor.getrgb(color)[:3] if color.startswith("#") else None for name, color in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(
            tree, _META, f"{type(error).__name__}: {error}", "classes with title, shape and color"
        ) from error


def _image(tree: Tree, path: str, beside: set[str], is_prefixed: bool, skipped: Skipped) -> AnnotatedImage:
    folder, _, own = path.partition("/")
    stem = own.rpartition("/")[2].removesuffix(".json")  # `a.jpg.json`, of old projects `a.json`
    name = next((name for name in (stem, *(f"{stem}.{ending}" for ending in IMAGE_EXTENSIONS)) if name in beside), stem)
    content = load_json(tree, path, _EXPECTED)
    try:
        size = int(content["size"]["height"]), int(content["size"]["width"])
        shapes = [shape for row in content["objects"] if (shape := _shape(row, skipped)) is not None]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise unreadable(tree, path, f"{type(error).__name__}: {error}", _EXPECTED) from error
    bare = name.rpartition(".")[0] or name
    return AnnotatedImage(f"{folder}/{bare}" if is_prefixed else bare, join(folder, _IMAGES, name), path, size, shapes)


def _shape(row: dict[str, Any], skipped: Skipped) -> Shape | None:
    kind, label = row.get("geometryType", "bitmap" if row.get("bitmap") else "polygon"), str(row["classTitle"])
    if kind == "bitmap":
        left, top = row["bitmap"]["origin"]
        return Shape(label, "bitmap", [int(left), int(top), row["bitmap"]["data"]])
    if kind == "polygon":
        rings = [row["points"]["exterior"], *row["points"].get("interior", [])]
        if len(rings[0]) < 3:
            skipped.add("polygons of fewer than 3 points")
            return None
        return Shape(label, "opencv", rings)
    if kind == "rectangle":
        (x, y), (x_other, y_other) = row["points"]["exterior"]
        return Shape(label, "box", [min(x, x_other), min(y, y_other), max(x, x_other), max(y, y_other)])
    skipped.add(f"figures of the type {kind}, which have no area")
    return None


def _is_root(tree: Tree, name: str) -> bool:
    below = [join(name, folder) for folder in folders_of(tree, name)]
    return _META in files_of(tree, name) and any({_IMAGES, _ANNOTATIONS} <= {*folders_of(tree, path)} for path in below)


SUPERVISELY = Reader(
    name="supervisely",
    summary="a project of Supervisely: meta.json with DATASET/img and DATASET/ann",
    layout="meta.json, and folders with img/* and ann/*.json (of the names img/a.jpg and ann/a.jpg.json)",
    landmarks=(_META, f"*/{_ANNOTATIONS}", f"*/{_IMAGES}"),
    read=read,
    add_options=add_options,
    is_root=_is_root,
)
