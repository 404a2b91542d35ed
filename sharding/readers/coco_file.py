"""Annotations in MS-COCO's form, `instances_*.json`: images, objects and categories, checked against each other."""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from msanet.datasets.coco import CATEGORIES
from msanet.errors import UserError
from sharding.tree import Tree

logger = logging.getLogger(__name__)

FOLDER = "annotations"
_MOST_LOOKED_AT = 12
"""Numbers of a polygon: those with more always enclose something, and there are a million of them."""


class CocoImage(NamedTuple):
    """One image: its id, file and size in pixels."""

    id: int
    file_name: str
    height: int
    width: int


class CocoObject(NamedTuple):
    """One object of an image."""

    image_id: int
    id: int
    category: int
    rest: str  # JSON for DecodeObjects, "" without an outline; as lists of numbers, 860,000 of them take gigabytes


@dataclass(frozen=True)
class AnnotationFile:
    """Annotations of one split. name: of the folder of its images. objects: {image id: in the order of the file}."""

    name: str
    path: str
    shown: str
    images: dict[int, CocoImage]
    objects: dict[int, list[CocoObject]]
    categories: dict[int, str]


def read_annotations(tree: Tree, path: str, name: str) -> AnnotationFile:
    """The annotations of a file. name: of its images' folder. Raises UserError where they cannot be packed as they are."""
    shown = tree.show(path)
    try:
        content = json.loads(tree.read(path), object_hook=_compact)
        rows, found = _all(content["images"], CocoImage), _all(content["annotations"], CocoObject)
        categories = [(int(row["id"]), str(row["name"])) for row in content["categories"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise UserError(
            "MSA-PACK-036",
            f"'{shown}' cannot be read ({what}), expected COCO's instances as JSON: images with numbers as id, width and height, "
            "annotations and categories; fix it, or export or download it again",
        ) from error
    _check_once(shown, "images", [(image.id, image.file_name) for image in rows])
    _check_once(shown, "categories", categories)
    _check_objects(shown, found)
    images = {image.id: image for image in rows}
    objects = defaultdict(list)
    for each in found:
        if each.image_id in images and each.rest:
            objects[each.image_id].append(each)
    _report_dropped(shown, found, images)
    known = {*dict(categories), *(CATEGORIES if categories else ())}
    unknown = [each.category for each in found if each.category not in known]
    if unknown:
        raise UserError(
            "MSA-PACK-037",
            f"'{shown}' has an object of category {unknown[0]} ({len(unknown)} of {len(found)} objects are of unknown "
            "categories), expected one of its categories; add them to the file or remove the objects",
        )
    return AnnotationFile(name, path, shown, images, objects, dict(categories))


def _check_once(shown: str, what: str, rows: Sequence[tuple[int, str]]) -> None:
    """Raise UserError where two rows have one id, or one name: one would take the other's place."""
    for kind, other, position in (("id", "name", 0), ("name", "id", 1)):
        first: dict[int | str, tuple[int, str]] = {}
        for row in rows:
            if row[position] in first:
                pair = f"'{first[row[position]][1 - position]}' and '{row[1 - position]}'"
                raise UserError(
                    "MSA-PACK-209",
                    f"'{shown}' has two {what} of the {kind} '{row[position]}' (with the {other}s {pair}), expected each once; "
                    "fix the file, or export it again",
                )
            first[row[position]] = row


def _check_objects(shown: str, found: Sequence[CocoObject]) -> None:
    """Raise UserError where two objects have one id: pycocotools would only know the last of them."""
    ids = Counter(each.id for each in found if each.id)  # 0: that of objects without one, too
    if len(ids) < ids.total():
        id, count = ids.most_common(1)[0]
        raise UserError(
            "MSA-PACK-209",
            f"'{shown}' has {count} objects of the id '{id}', expected each once; fix the file, or export it again",
        )


def _report_dropped(shown: str, found: Sequence[CocoObject], images: Mapping[int, CocoImage]) -> None:
    strangers = [each for each in found if each.image_id not in images]
    empty = sum(not each.rest for each in found)
    if strangers:
        ids = len({each.image_id for each in strangers})
        logger.warning(
            f"'{shown}': {len(strangers)} of {len(found)} objects belong to {ids} images that the file does not have (such as "
            f"image {strangers[0].image_id}) and are skipped"
        )
    if empty and empty == len(found):
        raise UserError(
            "MSA-PACK-210",
            f"none of the {len(found)} objects of '{shown}' has an outline, expected polygons or run lengths; boxes alone do "
            "not say which pixels are an object's: export the segmentation",
        )
    if empty:
        logger.warning(f"'{shown}': {empty} of {len(found)} objects have no outline with an area and are skipped")


def _compact(found: dict[str, Any]) -> object:
    """What is needed of an image or object as soon as it is parsed, so that the whole never lies in memory as lists."""
    if "image_id" in found:
        category, outline = int(found["category_id"]), _drawable(found.get("segmentation"))
        rest = json.dumps([found.get("iscrowd", 0), outline], separators=(",", ":"))[1:-1] if outline else ""
        return CocoObject(int(found["image_id"]), int(found.get("id", 0)), category, rest)
    if "file_name" in found:
        parts = str(found["file_name"]).replace("\\", "/").split("/")  # as Windows has it
        name = "/".join(part for part in parts if part != ".")
        return CocoImage(int(found["id"]), name, int(found["height"]), int(found["width"]))
    return found


def _drawable(outline: Any) -> Any:
    """The outline without polygons that enclose nothing; of those with two points, pycocotools would draw boxes.

    One polygon without a list around it, and points as pairs, have one meaning only.
    """
    if not isinstance(outline, list):
        return outline
    if outline and (not isinstance(outline[0], list) or (len(outline) > 2 and all(map(_is_pair, outline)))):
        outline = [outline]
    polygons = [
        sum(each, []) if isinstance(each, list) and each and all(map(_is_pair, each)) else each for each in outline
    ]
    return [each for each in polygons if not _is_empty(each)]


def _is_pair(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2


def _is_empty(polygon: Any) -> bool:
    if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) > _MOST_LOOKED_AT:
        return False
    if not all(isinstance(number, int | float) for number in polygon):
        return False  # malformed, which is found when it is drawn
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    area = sum(
        x * y_next - x_next * y for (x, y), (x_next, y_next) in zip(corners, corners[1:] + corners[:1], strict=True)
    )
    return len(corners) < 3 or area == 0


def _all(rows: list[Any], kind: type) -> list[Any]:
    for row in rows:
        if not isinstance(row, kind):
            raise ValueError(f"{str(row)[:60]} lacks a field")
    return rows
