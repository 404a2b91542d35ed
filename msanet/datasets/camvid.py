"""CamVid with 11 classes and void, as SegNet's authors distribute it (480x360, 367 train, 101 val, 233 test).

Brostow et al. 2009; the 11-class grouping of Badrinarayanan et al. 2017, table 2.
"""

from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec

_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

CAMVID = DatasetSpec(
    name="camvid",
    classes=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    train_ids={**{i: i for i in range(11)}, 11: IGNORE_INDEX, IGNORE_INDEX: IGNORE_INDEX},
)
