"""What a dataset *is*: its classes, colors and id table. One file each, and one dict.

How a dataset lies on disk is the business of `sharding.readers`; what was packed into shards travels with
them in `dataset.json`, so training needs only the shards.
"""

from msanet.datasets.ade20k import ADE20K
from msanet.datasets.bdd100k import BDD100K
from msanet.datasets.camvid import CAMVID
from msanet.datasets.cityscapes import CITYSCAPES, CITYSCAPES_TRAIN_IDS
from msanet.datasets.coco import COCO
from msanet.datasets.coco_stuff import COCO_STUFF, COCO_STUFF_10K
from msanet.datasets.isprs import POTSDAM, VAIHINGEN
from msanet.datasets.kitti import KITTI
from msanet.datasets.loveda import LOVEDA
from msanet.datasets.oxford_pet import OXFORD_PET
from msanet.datasets.pascal_context import PASCAL_CONTEXT, PASCAL_CONTEXT_60
from msanet.datasets.person_part import PERSON_PART
from msanet.datasets.spec import (
    IGNORE_INDEX,
    IGNORE_INDEX_16,
    DatasetSpec,
    id_dtype,
    ignore_index,
    ignored_value,
    label_dtype,
)
from msanet.datasets.voc import VOC

_SPECS = (
    ADE20K,
    BDD100K,
    CAMVID,
    CITYSCAPES,
    COCO,
    COCO_STUFF,
    COCO_STUFF_10K,
    KITTI,
    LOVEDA,
    OXFORD_PET,
    PASCAL_CONTEXT,
    PASCAL_CONTEXT_60,
    PERSON_PART,
    POTSDAM,
    VAIHINGEN,
    VOC,
)
DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}

__all__ = [
    "ADE20K",
    "BDD100K",
    "CAMVID",
    "CITYSCAPES",
    "CITYSCAPES_TRAIN_IDS",
    "COCO",
    "COCO_STUFF",
    "COCO_STUFF_10K",
    "DATASETS",
    "IGNORE_INDEX",
    "IGNORE_INDEX_16",
    "KITTI",
    "LOVEDA",
    "OXFORD_PET",
    "PASCAL_CONTEXT",
    "PASCAL_CONTEXT_60",
    "PERSON_PART",
    "POTSDAM",
    "VAIHINGEN",
    "VOC",
    "DatasetSpec",
    "id_dtype",
    "ignore_index",
    "ignored_value",
    "label_dtype",
]
