"""Any dataset of images and masks, in folders as layout.py knows them, and a file that names the classes."""

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msanet.data.image.codec import decode_image
from msanet.data.manifest import Line
from msanet.datasets import DATASETS, IGNORE_INDEX, DatasetSpec
from msanet.datasets.voc import voc_color
from msanet.documents import parse_yaml
from msanet.errors import UserError
from sharding.readers.class_files import find_classes
from sharding.readers.labels import check_decodable, decode_ids
from sharding.readers.layout import find_places, pairs_of
from sharding.readers.reader import DatasetListing, Reader, choose_splits
from sharding.tree import Tree

logger = logging.getLogger(__name__)

_USUAL = ("train", "val", "test")
_EXAMPLE = "classes: [{id: 0, name: field}, {id: 1, name: road, color: [90, 90, 90]}]"
_Byte = Annotated[int, Field(strict=True, ge=0, le=255)]
_Color = tuple[_Byte, _Byte, _Byte]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Class(_Record):
    id: Annotated[int, Field(strict=True, ge=0, lt=IGNORE_INDEX)]
    name: Line
    color: _Color | None = None


class _Classes(_Record):
    """The classes file. ignore: ids, or colors, of pixels that do not count; 255 never does."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = "folder"
    classes: Annotated[tuple[_Class, ...], Field(min_length=1, max_length=IGNORE_INDEX - 1)]
    ignore: tuple[_Byte | _Color, ...] = ()


@dataclass(frozen=True)
class DecodeFolder:
    """Masks of ids (grey or palette), or in the colors of the classes file.

    colors: (color, id) in the order of the colors as numbers. classes_file: its name, for errors.
    """

    colors: tuple[tuple[_Color, int], ...]
    classes_file: str = field(repr=False)

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        is_colored = data[:4] == b"\x89PNG" and data[24:25] == b"\x08" and data[25:26] in (b"\x02", b"\x06")
        if not is_colored:
            return decode_ids(data, name)
        check_decodable(data, name)
        codes_HW = _code(decode_image(data, name).astype(np.int32))
        known = _code(np.array([color for color, _ in self.colors] or [(-1, 0, 0)], np.int32))
        ids = np.array([id for _, id in self.colors] or [0], np.uint8)
        at_HW = np.searchsorted(known, codes_HW).clip(max=len(known) - 1)
        unknown = codes_HW[known[at_HW] != codes_HW]
        if unknown.size:
            red, rest = divmod(int(unknown[0]), 2**16)
            color = [red, *divmod(rest, 2**8)]
            raise UserError(
                "MSA-PACK-035",
                f"label '{name}' has the color {color} ({unknown.size} pixels are of such colors), expected only "
                f"colors of '{self.classes_file}'; add it there, to a class or to ignore, or fix the label",
            )
        return ids[at_HW]


def _code(color: np.ndarray) -> np.ndarray:
    return color[..., 0] * 2**16 + color[..., 1] * 2**8 + color[..., 2]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help=f"YAML or JSON that says what the values or colors of the masks are, such as: {_EXAMPLE}; not needed where the "
        "source has CVAT's labelmap.txt, labelme's class_names.txt or Roboflow's _classes.csv",
    )


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of image and label in one of the layouts, by split. Raises UserError where none holds."""
    classes, path = _classes_of(tree, options.classes)
    places = find_places(tree)
    if "" in places:
        places = {_only_split(options.splits): places[""]}
    splits = choose_splits(options.splits, [*places], _USUAL, tree.show(""))
    pairs = {split: pairs_of(tree, places[name], split) for split, name in splits.items()}
    return DatasetListing(_spec(classes), pairs, decode=DecodeFolder(_colors(classes, path), str(path)))


def _only_split(asked: Sequence[str] | None) -> str:
    """The name of the split where the source has no names for them."""
    if asked and len(asked) > 1:
        raise UserError(
            "MSA-PACK-021",
            f"the splits {', '.join(asked)} are asked for, but the source has its images in one folder, expected a folder for "
            "each split; give one name to --splits",
            setting="--splits",
        )
    split = asked[0] if asked else _USUAL[0]
    logger.info(f"the source has no folders of splits: all images are packed as split '{split}'")
    return split


def _classes_of(tree: Tree, path: Path | None) -> tuple[_Classes, Path]:
    """The classes of the file that was given, or of the one that an annotation tool left in the source."""
    if path is not None:
        return _load(path), path
    found = find_classes(tree)
    if found is None:
        raise UserError(
            "MSA-PACK-207",
            f"--classes is missing, and '{tree.show('')}' has no labelmap.txt, class_names.txt or _classes.csv, expected one of "
            f"them; write a file such as: {_EXAMPLE}",
            setting="--classes",
        )
    try:
        classes = _Classes.model_validate(found[0])
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            "MSA-PACK-205",
            f"'{tree.show(found[1])}' has the {first['loc'][-1]} {str(first['input'])[:80]!r} ({first['msg'].lower()}), expected "
            "classes; fix it, or say the classes with --classes",
        ) from None
    name, count = Counter(row.name for row in classes.classes).most_common(1)[0]
    if count > 1:
        raise UserError(
            "MSA-PACK-205",
            f"'{tree.show(found[1])}' has the class '{name}' {count} times, expected once; fix it, or say the classes with "
            "--classes",
        )
    logger.info(f"classes are those of '{tree.show(found[1])}': {', '.join(row.name for row in classes.classes)}")
    return classes, Path(tree.show(found[1]))


def _load(path: Path) -> _Classes:
    expected = f"expected a file such as: {_EXAMPLE}"
    try:
        content = parse_yaml(path.read_bytes(), text_keys=("name",))
        _rename_old_keys(content)
        classes = _Classes.model_validate(content)
    except UserError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UserError(
            "MSA-PACK-031", f"classes file '{path}': {where}: {first['msg'].lower()}; {expected}", setting="--classes"
        ) from error
    except ValueError as error:
        words = " ".join(str(error).split())
        raise UserError(
            "MSA-PACK-031",
            f"classes file '{path}' is not valid YAML or JSON ({words}); {expected}",
            setting="--classes",
        ) from error
    ids = [*(found.id for found in classes.classes), *(entry for entry in classes.ignore if isinstance(entry, int))]
    for what, values in (("id", ids), ("class", [found.name for found in classes.classes])):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise UserError(
                "MSA-PACK-032",
                f"classes file '{path}' has the {what} '{value}' {count} times, expected once; fix it",
                setting="--classes",
            )
    if classes.name in DATASETS:
        raise UserError(
            "MSA-PACK-033",
            f"classes file '{path}' has the name '{classes.name}' of another dataset; choose another",
            setting="--classes",
        )
    return classes


def _rename_old_keys(content: object) -> None:
    """Version 0.1.0 spelled `color` in British English."""
    classes = content.get("classes") if isinstance(content, dict) else None
    for record in classes if isinstance(classes, list) else []:
        if isinstance(record, dict) and "colour" in record and "color" not in record:
            record["color"] = record.pop("colour")


def _spec(classes: _Classes) -> DatasetSpec:
    ignored = {entry: IGNORE_INDEX for entry in (*classes.ignore, IGNORE_INDEX) if isinstance(entry, int)}
    return DatasetSpec(
        name=classes.name,
        classes=tuple(found.name for found in classes.classes),
        palette=tuple(found.color or voc_color(number) for number, found in enumerate(classes.classes)),
        train_ids={**ignored, **{found.id: number for number, found in enumerate(classes.classes)}},
    )


def _colors(classes: _Classes, path: Path) -> tuple[tuple[_Color, int], ...]:
    given = [(found.color, found.id) for found in classes.classes if found.color is not None]
    given += [(entry, IGNORE_INDEX) for entry in classes.ignore if not isinstance(entry, int)]
    color, count = Counter(color for color, _ in given).most_common(1)[0] if given else (None, 0)
    if count > 1:
        raise UserError(
            "MSA-PACK-032",
            f"classes file '{path}' has the color {color} {count} times, expected once; fix it",
            setting="--classes",
        )
    return tuple(sorted(given))


FOLDER = Reader(
    name="folder",
    summary="your own images and masks, with --classes to say what the masks' values or colors are",
    layout="images/<split>/* (png, jpg, tif, bmp, webp) with labels/<split>/*.png of the same names, or <split>/images with "
    "<split>/labels (or masks)",
    landmarks=("images", "labels"),
    read=read,
    add_options=add_options,
    is_root=lambda tree, name: bool(find_places(tree, name)),
)
