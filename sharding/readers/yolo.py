"""YOLO's polygons: data.yaml, images/, and labels/ with a text file of `class x y x y ...` for each image.

Drawn as Ultralytics' dataset for semantic segmentation does: corners cut to whole pixels, smaller polygons on top.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.documents import parse_yaml
from msanet.errors import UserError
from msanet.logs import track
from sharding.readers.annotated import (
    USUAL,
    AnnotatedImage,
    Skipped,
    add_classes_option,
    all_files,
    join,
    make_listing,
    named_classes,
    unreadable,
)
from sharding.readers.contents import describe, files_of, folders_of
from sharding.readers.reader import SPLIT_NAMES, DatasetListing, Reader, choose_splits
from sharding.readers.shapes import DrawShapes, Shape
from sharding.tree import Tree

_EXPECTED = "data.yaml with names, and with train, val or test that lead to images"
_EXPECTED_LINE = "lines of a class and the corners of a polygon as fractions: class x y x y x y ..."
Beside = Callable[[str], frozenset[str]]
"""Folder -> names in it."""
_MOST_OUTSIDE = 0.01
"""Ultralytics takes fractions from -0.01 to 1.01."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    add_classes_option(parser, "names of data.yaml")


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All images of the splits. Raises UserError where the layout does not hold, or no label is a polygon."""
    name = _yaml_files(tree, "")[0]
    content = _load(tree, name)
    names = _names(tree, name, content)
    places = {key: content[key] for key in content if isinstance(key, str) and key in SPLIT_NAMES and content[key]}
    splits = choose_splits(options.splits, [*places], USUAL, tree.show(name))
    skipped, boxes = Skipped(), Skipped()
    images = {}

    @cache  # a folder is listed once, not for each of its files
    def beside(folder: str) -> frozenset[str]:
        return frozenset([*files_of(tree, folder), *folders_of(tree, folder)])

    for split, own in splits.items():
        paths = sorted({path for place in _listed(places[own]) for path in _images(tree, name, place, beside)})
        ids = _ids(paths)
        images[split] = [
            AnnotatedImage(ids[path], path, label, None, _shapes(tree, label, names, boxes))
            for path in track(paths, f"{split}: reading annotations", len(paths), "files")
            for label in [_label_path(beside, path, skipped)]
        ]
    _check_polygons(tree, images, boxes, skipped)
    return make_listing(
        "yolo",
        tree,
        images,
        named_classes(options.classes) or [*names.values()],
        DrawShapes(smaller_on_top=True),
        skipped,
    )


def _load(tree: Tree, name: str) -> dict[Any, Any]:
    try:
        content = parse_yaml(tree.read(name))
    except ValueError as error:
        raise unreadable(tree, name, str(error), _EXPECTED) from error
    if not isinstance(content, dict):
        raise unreadable(tree, name, "not a mapping", _EXPECTED)
    return content


def _names(tree: Tree, name: str, content: dict[Any, Any]) -> dict[int, str]:
    """{class id: name}, of a list or a mapping."""
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(str(id).isdigit() for id in names):
        raise unreadable(tree, name, "names is not a list or a mapping of ids", _EXPECTED)
    return {int(id): str(label) for id, label in sorted(names.items(), key=lambda row: int(row[0]))}


def _listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _images(tree: Tree, name: str, place: str, beside: Beside) -> Iterator[str]:
    """The images of a place of data.yaml: below a folder, or those that a text file lists."""
    found = _resolve(beside, place)
    if found is None:
        raise UserError(
            "MSA-PACK-041",
            f"'{tree.show(name)}' names '{place}', which is not in '{tree.show('')}' (it holds {describe(tree)}), expected a "
            "folder or a list of images; fix the path, or choose other --splits",
            setting="--source",
        )
    if not found.endswith(".txt"):
        yield from (path for ending in IMAGE_EXTENSIONS for path in all_files(tree, f".{ending}", found))
        return
    for line in filter(None, map(str.strip, tree.read(found).decode("utf-8-sig", "replace").splitlines())):
        yield _resolve(beside, line) or line.lstrip("./")  # what is missing becomes a bad sample


def _resolve(beside: Beside, place: str) -> str | None:
    """The path in the source of one that begins at its root, above it, or on another computer."""
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for first in range(len(parts)):
        folder, last = "/".join(parts[first:-1]), parts[-1]
        if last in beside(folder):
            return join(folder, last)
    return None


def _ids(paths: list[str]) -> dict[str, str]:
    """{path: id}, the name without folders where that is the only one."""
    stems = [path.rpartition("/")[2].rpartition(".")[0] for path in paths]
    return dict(
        zip(paths, stems if len({*stems}) == len(stems) else [path.rpartition(".")[0] for path in paths], strict=True)
    )


def _label_path(beside: Beside, path: str, skipped: Skipped) -> str:
    """The text file of an image: its last folder `images` becomes `labels`; the image itself where there is none."""
    before, found, after = f"/{path}".rpartition("/images/")
    label = f"{before}/labels/{after}" if found else f"/{path}"
    label = f"{label.rpartition('.')[0]}.txt".lstrip("/")
    folder, _, name = label.rpartition("/")
    if name in beside(folder):
        return label
    skipped.add("label files, which are missing: their images are packed as background, as YOLO takes them")
    return path


def _shapes(tree: Tree, label: str, names: dict[int, str], boxes: Skipped) -> list[Shape]:
    if not label.endswith(".txt"):
        return []
    shapes = []
    for line in filter(None, map(str.split, tree.read(label).decode("utf-8-sig", "replace").splitlines())):
        try:
            number, points = int(float(line[0])), [float(value) for value in line[1:]]
            if len(points) == 4:
                boxes.add("boxes without an outline")
                continue
            if len(points) % 2 or len(points) < 6:
                raise ValueError(f"a line has {len(line)} numbers")
            if not all(-_MOST_OUTSIDE <= value <= 1 + _MOST_OUTSIDE for value in points):
                raise ValueError("it has numbers outside of 0 to 1")
            shapes.append(Shape(names[number], "fractions", points))
        except KeyError as error:
            raise unreadable(tree, label, f"it has the class {error}, of {len(names)} names", _EXPECTED_LINE) from error
        except (ValueError, OverflowError) as error:
            raise unreadable(tree, label, str(error), _EXPECTED_LINE) from error
    return shapes


def _check_polygons(tree: Tree, images: dict[str, list[AnnotatedImage]], boxes: Skipped, skipped: Skipped) -> None:
    if boxes.counts and not any(image.shapes for own in images.values() for image in own):
        raise UserError(
            "MSA-PACK-210",
            f"'{tree.show('')}' has {boxes.counts.total()} boxes and no polygon, expected polygons: it was made for detection; "
            "export the segmentation",
            setting="--source",
        )
    skipped.counts += boxes.counts


def _yaml_files(tree: Tree, folder: str) -> list[str]:
    found = [name for name in files_of(tree, folder) if name.endswith((".yaml", ".yml"))]
    found = [name for name in found if b"names" in tree.read(join(folder, name))]
    return sorted(found, key=lambda name: not name.startswith("data."))


def _is_root(tree: Tree, name: str) -> bool:
    folders = [name, *(join(name, below) for below in folders_of(tree, name))]
    return bool(_yaml_files(tree, name)) and any("labels" in folders_of(tree, folder) for folder in folders)


YOLO = Reader(
    name="yolo",
    summary="polygons of YOLO (Ultralytics): data.yaml with images/ and labels/*.txt",
    layout="data.yaml with names and paths, images/<split>/* and labels/<split>/*.txt (or <split>/images and <split>/labels)",
    landmarks=("*.yaml", "labels|*/labels"),
    read=read,
    add_options=add_options,
    is_root=_is_root,
)
