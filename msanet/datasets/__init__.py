"""What a dataset *is*: its classes, colours and id table. One file each, and one dict.

How a dataset lies on disk is the business of `sharding.readers`; what was packed into shards travels with
them in `dataset.json`, so training needs only the shards.
"""

from msanet.datasets.camvid import CAMVID
from msanet.datasets.cityscapes import CITYSCAPES, CITYSCAPES_TRAIN_IDS
from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec
from msanet.datasets.voc import VOC

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in (CAMVID, CITYSCAPES, VOC)}

__all__ = ["CAMVID", "CITYSCAPES", "CITYSCAPES_TRAIN_IDS", "DATASETS", "IGNORE_INDEX", "VOC", "DatasetSpec"]
