"""A folder of images with masks of 16 bits, of more classes than 8 bits hold, and its shards."""

import json
from pathlib import Path

import cv2
import numpy as np
import tifffile

from msanet.data.image.codec import encode_label
from sharding.__main__ import main

NUM_CLASSES = 300
SIZE = (48, 80)
IGNORED = 65535


def own_id(train_id: int) -> int:
    """The value of a class in masks: from 1000 on, in the reverse order."""
    return 1000 + 7 * (NUM_CLASSES - 1 - train_id)


def label(seed: int, num_classes: int = NUM_CLASSES, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W) uint16 train ids: patches of 8x8 of any class, the highest among them, and an ignored border."""
    rng = np.random.default_rng(seed)
    label_HW = rng.integers(0, num_classes, (size[0] // 8, size[1] // 8)).repeat(8, 0).repeat(8, 1).astype(np.uint16)
    label_HW[:8, :8], label_HW[8:16, :8] = num_classes - 1, 255
    label_HW[:, -5:] = IGNORED
    return label_HW


def write_many_classes(root: Path) -> dict[str, np.ndarray]:
    """Three training images and two of validation under `root`, the classes file next to it; the labels (H, W) by id."""
    labels = {}
    ids = np.full(2**16, IGNORED, np.uint16)
    ids[:NUM_CLASSES] = [own_id(k) for k in range(NUM_CLASSES)]
    for number, (split, name) in enumerate(
        (("train", "a"), ("train", "b"), ("train", "c"), ("val", "d"), ("val", "e"))
    ):
        labels[name] = label(number)
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        mask_HW = ids[labels[name]]
        if name == "b":
            tifffile.imwrite(root / "labels" / split / "b.tif", mask_HW, compression="zlib")
        else:
            (root / "labels" / split / f"{name}.png").write_bytes(encode_label(mask_HW))
        image_HWC = np.stack([labels[name] % 256, labels[name] // 2 % 256, labels[name] * 7 % 256], axis=2)
        cv2.imwrite(str(root / "images" / split / f"{name}.png"), image_HWC.astype(np.uint8))
    write_classes(root)
    return labels


def write_classes(root: Path, **more: object) -> Path:
    """The classes file next to the folder `root`."""
    rows = [{"id": own_id(k), "name": f"class {k}"} for k in range(NUM_CLASSES)]
    path = root.with_name("classes.json")
    path.write_text(json.dumps({"name": "many", "classes": rows, **more}))
    return path


def pack_many_classes(root: Path, out: Path, *words: str) -> Path:
    """Pack it; the folder of shards."""
    options = ["--classes", str(root.with_name("classes.json")), "--out", str(out), "--workers", "1"]
    assert main(["folder", "--source", str(root), *options, *words]) == 0
    return out
