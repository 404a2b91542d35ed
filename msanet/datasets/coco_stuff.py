"""COCO-Stuff: MS-COCO's 80 objects and 91 classes of stuff (Caesar et al. 2018), 171 in the order of their category ids.

The category ids 92 to 182 are the stuff, by the alphabet. Names and ids are as in mmsegmentation 1.2.2; its colors repeat, these
do not.
"""

from msanet.datasets.coco import CATEGORIES
from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec
from msanet.datasets.voc import voc_color

# fmt: off
_STUFF = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff", "dirt",
    "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog",
    "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves", "light", "mat",
    "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other",
    "plastic", "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand",
    "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw", "structural-other",
    "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete", "wall-other",
    "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind", "window-other",
    "wood",
)
# fmt: on
_IDS = (*CATEGORIES, *range(92, 183))


def _coco_stuff(name: str, shift: int, ignored: int) -> DatasetSpec:
    """shift: from a category id to its value in label maps. ignored: value of pixels without a class."""
    return DatasetSpec(
        name=name,
        classes=(*CATEGORIES.values(), *_STUFF),
        palette=tuple(voc_color(1 + k) for k in range(len(_IDS))),
        train_ids={ignored: IGNORE_INDEX, **{id + shift: k for k, id in enumerate(_IDS)}},
    )


COCO_STUFF = _coco_stuff("coco_stuff", -1, IGNORE_INDEX)
"""The 164,000 images of 2017: `stuffthingmaps` hold the category ids less 1."""
COCO_STUFF_10K = _coco_stuff("coco_stuff10k", 0, 0)
"""The 10,000 images of version 1.1, whose `.mat` files hold the category ids."""
