"""ADE20K as the scene parsing benchmark distributes it: `ADEChallengeData2016`."""

from msanet.datasets import ADE20K as SPEC
from sharding.readers.image_trees import Layout, tree_reader

ADE20K = tree_reader(
    SPEC,
    summary="ADE20K, 150 classes (ADEChallengeData2016)",
    layouts=[Layout("images/{split}", "annotations/{split}")],
    landmarks=("images/*/ADE_*.jpg", "annotations/*/ADE_*.png"),
    counts={"train": 20_210, "val": 2_000},
    description="images/training/ADE_*.jpg with annotations/training/ADE_*.png, likewise validation",
)
