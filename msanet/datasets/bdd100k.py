"""BDD100K, semantic segmentation: 19 classes, those of Cityscapes, whose train ids its label maps hold (Yu et al. 2020)."""

from dataclasses import replace

from msanet.datasets.cityscapes import CITYSCAPES_TRAIN_IDS

BDD100K = replace(CITYSCAPES_TRAIN_IDS, name="bdd100k")
