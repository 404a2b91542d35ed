"""Cityscapes: 34 label ids, of which 19 are classes (Cordts et al. 2016, and the official label table)."""

from dataclasses import dataclass

from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec


@dataclass(frozen=True)
class CityscapesLabel:
    """One row of the official table: name, id in `labelIds` PNGs, train id, category, whether instances are told apart, RGB."""

    name: str
    id: int
    train_id: int
    category: str
    has_instances: bool
    color: tuple[int, int, int]


_VOID = IGNORE_INDEX
LABELS: tuple[CityscapesLabel, ...] = tuple(
    CityscapesLabel(*row)
    for row in (
        ("unlabeled", 0, _VOID, "void", False, (0, 0, 0)),
        ("ego vehicle", 1, _VOID, "void", False, (0, 0, 0)),
        ("rectification border", 2, _VOID, "void", False, (0, 0, 0)),
        ("out of roi", 3, _VOID, "void", False, (0, 0, 0)),
        ("static", 4, _VOID, "void", False, (0, 0, 0)),
        ("dynamic", 5, _VOID, "void", False, (111, 74, 0)),
        ("ground", 6, _VOID, "void", False, (81, 0, 81)),
        ("road", 7, 0, "flat", False, (128, 64, 128)),
        ("sidewalk", 8, 1, "flat", False, (244, 35, 232)),
        ("parking", 9, _VOID, "flat", False, (250, 170, 160)),
        ("rail track", 10, _VOID, "flat", False, (230, 150, 140)),
        ("building", 11, 2, "construction", False, (70, 70, 70)),
        ("wall", 12, 3, "construction", False, (102, 102, 156)),
        ("fence", 13, 4, "construction", False, (190, 153, 153)),
        ("guard rail", 14, _VOID, "construction", False, (180, 165, 180)),
        ("bridge", 15, _VOID, "construction", False, (150, 100, 100)),
        ("tunnel", 16, _VOID, "construction", False, (150, 120, 90)),
        ("pole", 17, 5, "object", False, (153, 153, 153)),
        ("polegroup", 18, _VOID, "object", False, (153, 153, 153)),
        ("traffic light", 19, 6, "object", False, (250, 170, 30)),
        ("traffic sign", 20, 7, "object", False, (220, 220, 0)),
        ("vegetation", 21, 8, "nature", False, (107, 142, 35)),
        ("terrain", 22, 9, "nature", False, (152, 251, 152)),
        ("sky", 23, 10, "sky", False, (70, 130, 180)),
        ("person", 24, 11, "human", True, (220, 20, 60)),
        ("rider", 25, 12, "human", True, (255, 0, 0)),
        ("car", 26, 13, "vehicle", True, (0, 0, 142)),
        ("truck", 27, 14, "vehicle", True, (0, 0, 70)),
        ("bus", 28, 15, "vehicle", True, (0, 60, 100)),
        ("caravan", 29, _VOID, "vehicle", True, (0, 0, 90)),
        ("trailer", 30, _VOID, "vehicle", True, (0, 0, 110)),
        ("train", 31, 16, "vehicle", True, (0, 80, 100)),
        ("motorcycle", 32, 17, "vehicle", True, (0, 0, 230)),
        ("bicycle", 33, 18, "vehicle", True, (119, 11, 32)),
    )
)

_CLASSES = sorted((label for label in LABELS if label.train_id != _VOID), key=lambda label: label.train_id)

CATEGORIES: dict[str, tuple[int, ...]] = {
    category: tuple(label.train_id for label in _CLASSES if label.category == category)
    for category in dict.fromkeys(label.category for label in _CLASSES)
}
"""Category -> train ids of its classes, in the order of the official table."""

CITYSCAPES = DatasetSpec(
    name="cityscapes",
    classes=tuple(label.name for label in _CLASSES),
    palette=tuple(label.color for label in _CLASSES),
    train_ids={label.id: label.train_id for label in LABELS},
)

CITYSCAPES_TRAIN_IDS = DatasetSpec(
    name="cityscapes",
    classes=CITYSCAPES.classes,
    palette=CITYSCAPES.palette,
    train_ids={**{i: i for i in range(19)}, IGNORE_INDEX: IGNORE_INDEX},
)
"""The same dataset read from `_labelTrainIds` PNGs, which hold train ids already."""
