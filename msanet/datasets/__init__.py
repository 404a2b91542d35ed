"""What a dataset *is*: its classes, colors and id table. One file each, and one dict.

How a dataset lies on disk is the business of `sharding.readers`; what was packed into shards travels with
them in `dataset.json`, so training needs only the shards.
"""

from msanet.datasets.camvid import CAMVID
from msanet.datasets.cityscapes import CITYSCAPES, CITYSCAPES_TRAIN_IDS
from msanet.datasets.coco import COCO
from msanet.datasets.person_part import PERSON_PART
from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec
from msanet.datasets.voc import VOC

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in (CAMVID, CITYSCAPES, COCO, PERSON_PART, VOC)}

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "CITYSCAPES_TRAIN_IDS",
    "COCO",
    "DATASETS",
    "IGNORE_INDEX",
    "PERSON_PART",
    "VOC",
    "DatasetSpec",
]
