"""PASCAL VOC 2012 segmentation: 20 object classes and background, 255 on object borders (Everingham et al. 2015)."""

from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec

_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def voc_color(index: int) -> tuple[int, int, int]:
    """RGB of an index in the VOC palette: its bits, three at a time, fill R, G and B from the top (devkit, VOClabelcolormap)."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue


VOC = DatasetSpec(
    name="voc",
    classes=_CLASSES,
    palette=tuple(voc_color(i) for i in range(21)),
    train_ids={**{i: i for i in range(21)}, IGNORE_INDEX: IGNORE_INDEX},
)
