"""KITTI: 200 images with labels, which are all for training; a validation is split off with --random-split or --fold."""

from msanet.datasets import KITTI as SPEC
from sharding.readers.image_trees import Layout, tree_reader

KITTI = tree_reader(
    SPEC,
    summary="KITTI, 19 classes of Cityscapes; its 200 images are all for training: add --random-split val=0.2 or --fold 1/5",
    layouts=[Layout("{split}/image_2", "{split}/semantic", image_endings=(".png",))],
    landmarks=("training/image_2", "training/semantic"),
    counts={"train": 200},
    description="training/image_2/*.png with training/semantic/*.png",
    usual=("train",),
)
