"""PASCAL-Context: the 59 most frequent classes of the 459 (Mottaghi et al. 2014), or 60 with background.

Names and ids are as in mmsegmentation 1.2.2, in the order of the 459.
"""

from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec
from msanet.datasets.voc import voc_color

# fmt: off
LABELS: dict[int, str] = {
    2: "aeroplane", 9: "bag", 18: "bed", 19: "bedclothes", 22: "bench", 23: "bicycle", 25: "bird", 31: "boat", 33: "book",
    34: "bottle", 44: "building", 45: "bus", 46: "cabinet", 59: "car", 65: "cat", 68: "ceiling", 72: "chair", 80: "cloth",
    85: "computer", 98: "cow", 104: "cup", 105: "curtain", 113: "dog", 115: "door", 144: "fence", 158: "floor",
    159: "flower", 162: "food", 187: "grass", 189: "ground", 207: "horse", 220: "keyboard", 232: "light", 258: "motorbike",
    259: "mountain", 260: "mouse", 284: "person", 295: "plate", 296: "platform", 308: "pottedplant", 324: "road",
    326: "rock", 347: "sheep", 349: "shelves", 354: "sidewalk", 355: "sign", 360: "sky", 366: "snow", 368: "sofa",
    397: "table", 415: "track", 416: "train", 420: "tree", 424: "truck", 427: "tvmonitor", 440: "wall", 445: "water",
    454: "window", 458: "wood",
}
# fmt: on
"""Id among the 459 -> name."""

PASCAL_CONTEXT = DatasetSpec(
    name="pascal_context",
    classes=tuple(LABELS.values()),
    palette=tuple(voc_color(1 + k) for k in range(len(LABELS))),
    train_ids={0: IGNORE_INDEX, IGNORE_INDEX: IGNORE_INDEX, **{1 + k: k for k in range(len(LABELS))}},
)
PASCAL_CONTEXT_60 = DatasetSpec(
    name="pascal_context60",
    classes=("background", *LABELS.values()),
    palette=tuple(voc_color(k) for k in range(1 + len(LABELS))),
    train_ids={IGNORE_INDEX: IGNORE_INDEX, **{k: k for k in range(1 + len(LABELS))}},
)
"""All else is a class."""
