"""Cityscapes: 34 label ids, of which 19 are classes (Cordts et al. 2016, and the official label table)."""

from dataclasses import dataclass

from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec


@dataclass(frozen=True)
class CityscapesLabel:
    """One row of the official table: name, id in `labelIds` PNGs, train id, whether instances are told apart, RGB."""

    name: str
    id: int
    train_id: int
    has_instances: bool
    colour: tuple[int, int, int]


_VOID = IGNORE_INDEX
LABELS: tuple[CityscapesLabel, ...] = tuple(
    CityscapesLabel(*row)
    for row in (
        ("unlabeled", 0, _VOID, False, (0, 0, 0)),
        ("ego vehicle", 1, _VOID, False, (0, 0, 0)),
        ("rectification border", 2, _VOID, False, (0, 0, 0)),
        ("out of roi", 3, _VOID, False, (0, 0, 0)),
        ("static", 4, _VOID, False, (0, 0, 0)),
        ("dynamic", 5, _VOID, False, (111, 74, 0)),
        ("ground", 6, _VOID, False, (81, 0, 81)),
        ("road", 7, 0, False, (128, 64, 128)),
        ("sidewalk", 8, 1, False, (244, 35, 232)),
        ("parking", 9, _VOID, False, (250, 170, 160)),
        ("rail track", 10, _VOID, False, (230, 150, 140)),
        ("building", 11, 2, False, (70, 70, 70)),
        ("wall", 12, 3, False, (102, 102, 156)),
        ("fence", 13, 4, False, (190, 153, 153)),
        ("guard rail", 14, _VOID, False, (180, 165, 180)),
        ("bridge", 15, _VOID, False, (150, 100, 100)),
        ("tunnel", 16, _VOID, False, (150, 120, 90)),
        ("pole", 17, 5, False, (153, 153, 153)),
        ("polegroup", 18, _VOID, False, (153, 153, 153)),
        ("traffic light", 19, 6, False, (250, 170, 30)),
        ("traffic sign", 20, 7, False, (220, 220, 0)),
        ("vegetation", 21, 8, False, (107, 142, 35)),
        ("terrain", 22, 9, False, (152, 251, 152)),
        ("sky", 23, 10, False, (70, 130, 180)),
        ("person", 24, 11, True, (220, 20, 60)),
        ("rider", 25, 12, True, (255, 0, 0)),
        ("car", 26, 13, True, (0, 0, 142)),
        ("truck", 27, 14, True, (0, 0, 70)),
        ("bus", 28, 15, True, (0, 60, 100)),
        ("caravan", 29, _VOID, True, (0, 0, 90)),
        ("trailer", 30, _VOID, True, (0, 0, 110)),
        ("train", 31, 16, True, (0, 80, 100)),
        ("motorcycle", 32, 17, True, (0, 0, 230)),
        ("bicycle", 33, 18, True, (119, 11, 32)),
    )
)

_CLASSES = sorted((label for label in LABELS if label.train_id != _VOID), key=lambda label: label.train_id)

CITYSCAPES = DatasetSpec(
    name="cityscapes",
    classes=tuple(label.name for label in _CLASSES),
    palette=tuple(label.colour for label in _CLASSES),
    train_ids={label.id: label.train_id for label in LABELS},
)

CITYSCAPES_TRAIN_IDS = DatasetSpec(
    name="cityscapes",
    classes=CITYSCAPES.classes,
    palette=CITYSCAPES.palette,
    train_ids={**{i: i for i in range(19)}, IGNORE_INDEX: IGNORE_INDEX},
)
"""The same dataset read from `_labelTrainIds` PNGs, which hold train ids already."""
