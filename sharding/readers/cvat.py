"""CVAT: "CVAT for images 1.1" (annotations.xml) and "Segmentation mask 1.1" (labelmap.txt with masks).

Shapes of the XML become pixels as in CVAT's own export of masks, which is pycocotools': by z_order, later ones on top.
"""

import argparse
import math
from dataclasses import replace
from xml.etree import ElementTree

from PIL import ImageColor

from msanet.errors import UserError
from sharding.readers.annotated import (
    AnnotatedImage,
    Color,
    ImageFinder,
    Skipped,
    add_classes_option,
    by_split,
    join,
    make_listing,
    named_classes,
    unreadable,
)
from sharding.readers.contents import files_of, folders_of
from sharding.readers.folder import FOLDER
from sharding.readers.reader import DatasetListing, Reader
from sharding.readers.shapes import DrawShapes, Shape
from sharding.tree import Tree

_EXPECTED = "annotations.xml as the export 'CVAT for images 1.1' writes it"
_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    add_classes_option(
        parser, "the labels of the task; with masks it is a file as for `folder`, by default labelmap.txt"
    )


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All images of all XML files, or the masks. Raises UserError where one cannot be read."""
    names = _xml_files(tree, "")
    if not names:
        found = FOLDER.read(tree, options)
        is_default = [*found.splits] == ["default"] and not options.splits  # CVAT's name for no subset
        return replace(found, splits={"train": found.splits["default"]}) if is_default else found
    skipped, finder = Skipped(), ImageFinder(tree)
    labels: dict[str, Color | None] = {}
    images: dict[str, AnnotatedImage] = {}
    split_of: dict[str, str] = {}
    for name in names:
        root = _parse(tree, name)
        labels |= _labels(root)
        for element in root.iter("image"):
            try:
                image = _image(element, name, finder, skipped)
            except (KeyError, ValueError) as error:
                raise unreadable(tree, name, f"{type(error).__name__}: {error}", _EXPECTED) from error
            images[image.id], split_of[image.id] = image, _subset(element)
    splits = by_split(tree, split_of, options, skipped)
    listed = {split: [images[id] for id in ids] for split, ids in splits.items()}
    finder.check_missing(tree.show(names[0]), len(images), options.skip_bad)
    colors = {label: color for label, color in labels.items() if color is not None}
    classes = named_classes(options.classes) or [*labels] or None
    return make_listing("cvat", tree, listed, classes, DrawShapes(), skipped, colors)


def _parse(tree: Tree, name: str) -> ElementTree.Element:
    data = tree.read(name)
    try:
        if b"<!ENTITY" in data:
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError) as error:
        raise unreadable(tree, name, str(error), _EXPECTED) from error
    if root.find("track") is not None:
        raise UserError(
            "MSA-PACK-759",
            f"'{tree.show(name)}' has tracks of a video, expected {_EXPECTED}; export the task again with that format",
            setting="--source",
        )
    return root


def _labels(root: ElementTree.Element) -> dict[str, Color | None]:
    """{name: color} of the labels that can have an area, in CVAT's order."""
    found: dict[str, Color | None] = {}
    for label in root.iterfind("meta//label"):
        name, color = label.findtext("name"), label.findtext("color") or ""
        if name and label.findtext("type") not in _WITHOUT_AREA and not label.findtext("parent"):
            found[name] = ImageColor.getrgb(color)[:3] if color.startswith("#") and len(color) == 7 else None
    return found


def _subset(element: ElementTree.Element) -> str:
    subset = element.get("subset", "")
    return "" if subset.lower() == "default" else subset


def _image(element: ElementTree.Element, label: str, finder: ImageFinder, skipped: Skipped) -> AnnotatedImage:
    name, size = element.attrib["name"], (int(element.attrib["height"]), int(element.attrib["width"]))
    path = finder.need(name, "images", join("images", element.get("subset", "")))
    shapes = []
    for order, shape in enumerate(element):
        drawn = _shape(shape, skipped)
        if drawn is not None:
            # CVAT makes polygons of turned boxes, which then come after all others of their level.
            is_turned = shape.tag == "box" and float(shape.get("rotation", 0)) != 0
            shapes.append(((int(shape.get("z_order", 0)), is_turned, order), drawn))
    in_order = [shape for _, shape in sorted(shapes, key=lambda pair: pair[0])]
    return AnnotatedImage(name.rpartition(".")[0] or name, path, label, size, in_order)


def _shape(element: ElementTree.Element, skipped: Skipped) -> Shape | None:
    kind, values = element.tag, element.attrib
    if kind == "polygon":
        points = [[float(number) for number in point.split(",")] for point in values["points"].split(";")]
        if len(points) < 3:
            skipped.add("polygons of fewer than 3 points")
            return None
        return Shape(values["label"], "coco", [[number for point in points for number in point]])
    if kind == "box":
        left, top, right, bottom = (float(values[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = _turned_box(left, top, right, bottom, float(values.get("rotation", 0)))
        return Shape(values["label"], "coco", [[number for corner in corners for number in corner]])
    if kind == "ellipse":
        numbers = [float(values[key]) for key in ("cx", "cy", "rx", "ry")]
        return Shape(values["label"], "ellipse", [*numbers, float(values.get("rotation", 0))])
    if kind == "mask":
        box = [int(values[key]) for key in ("left", "top", "width", "height")]
        return Shape(values["label"], "rows", [*box, [int(count) for count in values["rle"].split(",")]])
    skipped.add(f"shapes of the type {kind}, which have no area")
    return None


def _turned_box(left: float, top: float, right: float, bottom: float, degrees: float) -> list[tuple[float, float]]:
    """The corners of a box that is turned about its center."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    if not degrees:
        return corners
    x_mid, y_mid = left + (right - left) / 2, top + (bottom - top) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        (x_mid + cos * (x - x_mid) - sin * (y - y_mid), y_mid + sin * (x - x_mid) + cos * (y - y_mid))
        for x, y in corners
    ]


def _xml_files(tree: Tree, folder: str) -> list[str]:
    return [join(folder, name) for name in files_of(tree, folder) if name.endswith(".xml")]


def _is_root(tree: Tree, name: str) -> bool:
    if any(b"<annotations" in tree.read(path)[:4096] for path in _xml_files(tree, name)[:2]):
        return True
    return "labelmap.txt" in files_of(tree, name) and "SegmentationClass" in folders_of(tree, name)


CVAT = Reader(
    name="cvat",
    summary="exports of CVAT: 'CVAT for images 1.1' (needs pycocotools) and 'Segmentation mask 1.1'",
    layout="annotations.xml with images/, or labelmap.txt with SegmentationClass/*.png and JPEGImages/",
    landmarks=("annotations.xml|labelmap.txt", "images|SegmentationClass"),
    read=read,
    add_options=add_options,
    is_root=_is_root,
)
