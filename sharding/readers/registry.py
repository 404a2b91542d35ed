"""Readers by name: those of this package, of installed packages, and of the user's own files. Imported when asked for."""

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from msanet.errors import UserError, nearest
from msanet.plugins import PluginError, PluginNotFound, first_line, load_plugin
from sharding.readers.reader import Reader

ENTRY_POINTS = "msanet.readers"
"""Entry-point group by which an installed package adds readers under names of their own."""
_MODULES = {
    "ade20k": "ade20k:ADE20K",
    "bdd100k": "bdd100k:BDD100K",
    "camvid": "camvid:CAMVID",
    "cityscapes": "cityscapes:CITYSCAPES",
    "coco": "coco:COCO",
    "coco_stuff": "coco_stuff:COCO_STUFF",
    "coco_stuff10k": "coco_stuff:COCO_STUFF_10K",
    "cvat": "cvat:CVAT",
    "folder": "folder:FOLDER",
    "kitti": "kitti:KITTI",
    "label_studio": "label_studio:LABEL_STUDIO",
    "labelme": "labelme:LABELME",
    "loveda": "loveda:LOVEDA",
    "mapillary": "mapillary:MAPILLARY",
    "oxford_pet": "oxford_pet:OXFORD_PET",
    "paddleseg": "paddleseg:PADDLESEG",
    "parquet": "parquet:PARQUET",
    "pascal_context": "pascal_context:PASCAL_CONTEXT",
    "person_part": "person_part:PERSON_PART",
    "potsdam": "isprs:POTSDAM",
    "roboflow": "roboflow:ROBOFLOW",
    "supervisely": "supervisely:SUPERVISELY",
    "vaihingen": "isprs:VAIHINGEN",
    "voc": "voc:VOC",
    "yolo": "yolo:YOLO",
}
"""Name -> module of this package, and the `Reader` in it."""


class _Readers(Mapping[str, Reader]):
    """The readers of this package, each imported when it is looked up."""

    def __getitem__(self, name: str) -> Reader:
        module, _, attribute = _MODULES[name].partition(":")
        found: Reader = getattr(importlib.import_module(f"sharding.readers.{module}"), attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


READERS = _Readers()


def find_reader(name: str) -> Reader:
    """The reader of that name: `camvid`, one of an installed package, `package.module:NAME` or `path/to/file.py:NAME`.

    Code of the user's is imported only because the command line names it. Raises UserError where there is none.
    """
    if name in READERS:
        return READERS[name]
    if ":" in name:
        return _checked(name, _load(name))
    points = _entry_points()
    if name not in points:
        found = f"unknown dataset '{name}'" if name else "no dataset is given"
        raise UserError("MSA-PACK-750", f"{found}; {nearest(name, [*READERS, *sorted(points)])}")
    try:
        return _checked(name, points[name].load())
    except UserError:
        raise
    except Exception as error:  # whatever that package does
        raise UserError(
            "MSA-PACK-751",
            f"the dataset '{name}' is of an installed package, the import of which raised {type(error).__name__}: "
            f"{first_line(error)}; fix or uninstall that package",
        ) from error


def is_reader_name(name: str) -> bool:
    """Whether the word is the name of a reader, without importing it."""
    return name in READERS or ":" in name or name in _entry_points()


def installed_readers() -> dict[str, str]:
    """{name: its package and object} of readers that installed packages add, without importing them."""
    return {name: point.value for name, point in sorted(_entry_points().items()) if name not in READERS}


def _entry_points() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _load(name: str) -> object:
    try:
        return load_plugin(name, needs_callable=False)
    except PluginNotFound as error:
        raise UserError("MSA-PACK-750", f"the dataset is '{name}', {error}") from None
    except PluginError as error:
        raise UserError("MSA-PACK-751", f"the dataset is '{name}', {error}") from error


def _checked(name: str, found: object) -> Reader:
    if not isinstance(found, Reader):
        raise UserError(
            "MSA-PACK-752",
            f"the dataset is '{name}', which is a {type(found).__name__}, expected a sharding.readers.Reader; name one, such as "
            "READER in examples/own_reader.py",
        )
    return found
