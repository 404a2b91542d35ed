"""LoveDA: tiles of 1024x1024 of rural and urban areas."""

from msanet.datasets import LOVEDA as SPEC
from sharding.readers.image_trees import Layout, tree_reader

LOVEDA = tree_reader(
    SPEC,
    summary="LoveDA, 7 classes of land cover, rural and urban",
    layouts=[Layout("{split}/*/images_png", "{split}/*/masks_png", image_endings=(".png",))],
    landmarks=("*/Rural/images_png|*/Urban/images_png", "*/Rural/masks_png|*/Urban/masks_png"),
    counts={"train": 2_522, "val": 1_669},
    description="Train/Rural/images_png/*.png with Train/Rural/masks_png/*.png, likewise Urban and Val",
)
