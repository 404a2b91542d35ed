"""Label Studio's JSON export: brushes, polygons, rectangles and ellipses; the later region is on top.

Brushes are decoded as its converter does (opacity above 0); polygons are drawn by pycocotools, as in its export to COCO.
"""

import argparse
import base64
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.errors import UserError
from sharding.readers.annotated import (
    AnnotatedImage,
    ImageFinder,
    Skipped,
    add_classes_option,
    by_split,
    folder_split,
    join,
    load_json,
    make_listing,
    named_classes,
    unreadable,
)
from sharding.readers.contents import files_of
from sharding.readers.reader import DatasetListing, Reader
from sharding.readers.shapes import DrawShapes, Shape
from sharding.tree import Tree

_EXPECTED = "Label Studio's export 'JSON': a list of tasks with data and annotations"
_LABELS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that is uploaded."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    add_classes_option(parser, "all labels, by the alphabet")


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All tasks that were annotated. Raises UserError where a file or an image is not as expected."""
    skipped, finder = Skipped(), ImageFinder(tree)
    images: list[AnnotatedImage] = []
    for path in _json_files(tree, ""):
        tasks = load_json(tree, path, _EXPECTED)
        if not _are_tasks(tasks):
            _refuse_other_exports(tree, path, tasks)
            skipped.add("JSON files that are not of Label Studio")
            continue
        for task in tasks:
            try:
                image = _image(task, path, finder, skipped)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise unreadable(tree, path, f"{type(error).__name__}: {error}", _EXPECTED) from error
            images += [image] if image is not None else []
    finder.check_missing(tree.show(""), len(images), options.skip_bad)
    images = _unique(images)
    splits = by_split(tree, {image.id: folder_split(image.image) for image in images}, options, skipped)
    listed = {split: [image for image in images if image.id in {*ids}] for split, ids in splits.items()}
    return make_listing("label_studio", tree, listed, named_classes(options.classes), DrawShapes(), skipped)


def _unique(images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
    """Where two images have one name, the paths are their ids."""
    names = Counter(image.id for image in images)
    return [
        image if names[image.id] == 1 else AnnotatedImage(image.image, *list(vars(image).values())[1:])
        for image in images
    ]


def _are_tasks(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(row, dict) and {"data", "annotations"} <= row.keys() for row in content
    )


def _refuse_other_exports(tree: Tree, path: str, content: Any) -> None:
    if isinstance(content, list) and any(isinstance(row, dict) and "annotator" in row for row in content):
        raise UserError(
            "MSA-PACK-759",
            f"'{tree.show(path)}' is Label Studio's export 'JSON-MIN', which lacks the sizes of images, expected {_EXPECTED}; "
            "export the project again with that format",
            setting="--source",
        )


def _image(task: dict[str, Any], path: str, finder: ImageFinder, skipped: Skipped) -> AnnotatedImage | None:
    done = [each for each in task["annotations"] if not each.get("was_cancelled")]
    if not done:
        skipped.add("tasks that are not annotated")
        return None
    if len(done) > 1:
        skipped.add("further annotations of tasks that have several (the first is packed)", len(done) - 1)
    name = _file_name(task["data"])
    bare = _UPLOAD.sub("", name.rpartition("/")[2])
    found = finder.find(name) or finder.find(bare) or finder.need(name)
    sizes, shapes = set(), []
    for region in done[0]["result"]:
        shape = _shape(region, skipped)
        if shape is not None:
            sizes.add((int(region["original_height"]), int(region["original_width"])))
            shapes.append(shape)
    if len(sizes) > 1:
        raise ValueError(f"task {task.get('id')} has images of several sizes")
    return AnnotatedImage(bare.rpartition(".")[0], found, path, next(iter(sizes), None), shapes)


def _file_name(data: dict[str, Any]) -> str:
    """Where the task's image lies: a path, a URL, or /data/local-files/?d=PATH."""
    for value in data.values():
        name = str(value).partition("?d=")[2] or str(value).partition("?")[0]
        if name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS:
            return name.partition("://")[2] or name
    raise ValueError("a task has no image")


def _shape(region: dict[str, Any], skipped: Skipped) -> Shape | None:
    value = region.get("value")
    if not isinstance(value, dict) or "original_width" not in region:
        skipped.add("results without a region, such as choices and texts")
        return None
    label = next((value[key][0] for key in _LABELS if value.get(key)), None)
    if label is None:
        skipped.add("regions without a label")
        return None
    if region.get("image_rotation"):
        skipped.add("regions on an image that was turned in Label Studio")
        return None
    width, height = int(region["original_width"]) / 100, int(region["original_height"]) / 100
    if value.get("format") == "rle":
        return Shape(label, "brush", base64.b64encode(bytes(value["rle"])).decode())
    if "points" in value and len(value["points"]) > 2:
        return Shape(label, "coco", [[number for x, y in value["points"] for number in (x * width, y * height)]])
    if "radiusX" in value:
        numbers = [value["x"] * width, value["y"] * height, value["radiusX"] * width, value["radiusY"] * height]
        return Shape(label, "ellipse", [*numbers, value.get("rotation", 0)])
    if "width" in value and "height" in value:
        box = value["x"] * width, value["y"] * height, value["width"] * width, value["height"] * height
        return Shape(label, "coco", [_corners(*box, math.radians(value.get("rotation", 0)))])
    skipped.add(f"regions of the type {region.get('type')} without an area")
    return None


def _corners(left: float, top: float, width: float, height: float, angle: float) -> list[float]:
    """The corners of a rectangle that is turned about its first one."""
    right, down = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    steps = ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))
    return [
        number
        for dx, dy in steps
        for number in (left + dx * right[0] + dy * down[0], top + dx * right[1] + dy * down[1])
    ]


def _json_files(tree: Tree, folder: str) -> list[str]:
    return [join(folder, name) for name in files_of(tree, folder) if name.endswith(".json")]


def _is_root(tree: Tree, name: str) -> bool:
    for path in _json_files(tree, name)[:3]:
        data = tree.read(path)
        if data[:64].lstrip().startswith(b"[") and (b'"annotations"' in data or b'"annotator"' in data):
            return True
    return False


LABEL_STUDIO = Reader(
    name="label_studio",
    summary="Label Studio's export 'JSON', brushes and polygons (the latter need pycocotools)",
    layout="*.json, a list of tasks with data and annotations, and the images in any folder beside it",
    landmarks=("*.json",),
    read=read,
    add_options=add_options,
    is_root=_is_root,
)
