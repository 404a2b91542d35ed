"""KITTI, semantic segmentation: 19 classes and label ids of Cityscapes (Alhaija et al. 2018)."""

from dataclasses import replace

from msanet.datasets.cityscapes import CITYSCAPES

KITTI = replace(CITYSCAPES, name="kitti")
