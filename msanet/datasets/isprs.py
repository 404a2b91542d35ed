"""Potsdam and Vaihingen of the ISPRS 2D semantic labeling contest: 6 classes, of which label files hold the colors."""

from dataclasses import replace

from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec

_CLASSES = {
    "impervious surface": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter": (255, 0, 0),
}

POTSDAM = DatasetSpec(
    name="potsdam",
    classes=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    train_ids={IGNORE_INDEX: IGNORE_INDEX, **{k: k for k in range(len(_CLASSES))}},
)
VAIHINGEN = replace(POTSDAM, name="vaihingen")
