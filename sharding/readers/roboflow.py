"""Roboflow's exports for segmentation: masks with _classes.csv, COCO's JSON, or YOLO's polygons, in train, valid and test."""

import argparse

from sharding.readers.coco import COCO
from sharding.readers.coco_layouts import ROBOFLOW as COCO_FILE
from sharding.readers.contents import files_of, folders_of
from sharding.readers.folder import FOLDER
from sharding.readers.reader import DatasetListing, Reader
from sharding.readers.yolo import YOLO
from sharding.tree import Tree


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of the formats."""
    COCO.add_options(parser)
    FOLDER.add_options(parser)


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """As the reader of the format does it."""
    reader = _reader(tree, "")
    assert reader is not None, "is_root"
    return reader.read(tree, options)


def _reader(tree: Tree, name: str) -> Reader | None:
    names = [file for folder in folders_of(tree, name) for file in files_of(tree, f"{name}/{folder}".lstrip("/"))]
    if COCO_FILE in names:
        return COCO
    if "_classes.csv" in names:
        return FOLDER
    is_yolo = "data.yaml" in files_of(tree, name) and YOLO.is_root is not None and YOLO.is_root(tree, name)
    return YOLO if is_yolo else None


ROBOFLOW = Reader(
    name="roboflow",
    summary="exports of Roboflow: 'Semantic Segmentation Masks', 'COCO Segmentation' or YOLO's polygons",
    layout="train/, valid/, test/ with images and x_mask.png and _classes.csv, or _annotations.coco.json; or data.yaml with "
    "train/images and train/labels",
    landmarks=("train|valid|test", "*/_classes.csv|*/_annotations.coco.json|data.yaml"),
    read=read,
    add_options=add_options,
    is_root=lambda tree, name: _reader(tree, name) is not None,
)
