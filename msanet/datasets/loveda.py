"""LoveDA, 7 classes of land cover; 0 is no data (Wang et al. 2021; names and colors as in mmsegmentation 1.2.2)."""

from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec

_CLASSES = {
    "background": (255, 255, 255),
    "building": (255, 0, 0),
    "road": (255, 255, 0),
    "water": (0, 0, 255),
    "barren": (159, 129, 183),
    "forest": (0, 255, 0),
    "agricultural": (255, 195, 128),
}

LOVEDA = DatasetSpec(
    name="loveda",
    classes=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    train_ids={0: IGNORE_INDEX, **{1 + k: k for k in range(len(_CLASSES))}},
)
