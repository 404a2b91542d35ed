"""BDD100K: the 10,000 images of its semantic segmentation, in the layout of 2020 or that of 2018 (`seg`)."""

from msanet.datasets import BDD100K as SPEC
from sharding.readers.image_trees import Layout, tree_reader

BDD100K = tree_reader(
    SPEC,
    summary="BDD100K, 19 classes (train ids)",
    layouts=[
        Layout("images/10k/{split}", "labels/sem_seg/masks/{split}"),
        Layout("seg/images/{split}", "seg/labels/{split}", label_ending="_train_id.png"),
    ],
    landmarks=("images/10k|seg/images", "labels/sem_seg|seg/labels"),
    counts={"train": 7_000, "val": 1_000},
    description="images/10k/<split>/*.jpg with labels/sem_seg/masks/<split>/*.png, or seg/images/<split>/*.jpg with "
    "seg/labels/<split>/*_train_id.png",
)
