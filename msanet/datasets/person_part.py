"""PASCAL-Person-Part: people of PASCAL VOC 2010 in six parts (Chen et al. 2014; Chen et al. 2016, section 4.1).

The 24 parts that PASCAL-Part tells apart on people are merged as in the conversions of the label maps that are public
(facebookresearch/astmt among them): neck with torso, hands with lower arms, feet with lower legs.
"""

from msanet.datasets.spec import DatasetSpec
from msanet.datasets.voc import voc_color

PARTS: dict[str, tuple[str, ...]] = {
    "background": (),
    "head": ("head", "leye", "reye", "lear", "rear", "lebrow", "rebrow", "nose", "mouth", "hair"),
    "torso": ("torso", "neck"),
    "upper arms": ("luarm", "ruarm"),
    "lower arms": ("llarm", "rlarm", "lhand", "rhand"),
    "upper legs": ("luleg", "ruleg"),
    "lower legs": ("llleg", "rlleg", "lfoot", "rfoot"),
}
"""Class, in the order of the train ids, and the names in PASCAL-Part that it takes in."""

PERSON_PART = DatasetSpec(
    name="person_part",
    classes=tuple(PARTS),
    palette=tuple(voc_color(i) for i in range(len(PARTS))),
    train_ids={i: i for i in range(len(PARTS))},
)
