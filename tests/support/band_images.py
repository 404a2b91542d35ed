"""A folder of images of any bands and depth with labels, as `msanet pack folder --bands` takes it."""

from pathlib import Path

import cv2
import numpy as np
import tifffile

from sharding.__main__ import main

SIZE = (96, 130)
"""(height, width) of its images: tiles of bands do not divide the width."""


def band_image(channels: int, dtype: str, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, channels) of noise over a range that the type has."""
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, (*size, channels), dtype=np.uint8)
    return rng.normal(3000, 400, (*size, channels)).clip(0).astype(dtype)


def write_tiff(path: Path, pixels_HWC: np.ndarray) -> None:
    """One page with all bands as samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contig = "contig" if pixels_HWC.shape[2] > 1 else None
    pixels = pixels_HWC if contig else pixels_HWC[..., 0]
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels.shape[2:] == (3,) else "minisblack", planarconfig=contig)


def write_band_folder(root: Path, channels: int = 12, dtype: str = "uint16") -> dict[str, np.ndarray]:
    """Two training images and one of validation under `root`, and the classes file next to it; the images by id."""
    images = {}
    for number, (split, name) in enumerate((("train", "a"), ("train", "b"), ("val", "c"))):
        images[name] = band_image(channels, dtype, number)
        label_HW = np.zeros(SIZE, np.uint8)
        label_HW[20:60, 10 * number : 10 * number + 50] = 1
        images[name][label_HW == 1] //= 2
        write_tiff(root / "images" / split / f"{name}.tif", images[name])
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "labels" / split / f"{name}.png"), label_HW)
    classes_file(root).write_text("classes: [{id: 0, name: field}, {id: 1, name: road}]\n")
    return images


def classes_file(root: Path) -> Path:
    return root.with_name("classes.yaml")


def pack_bands(root: Path, out: Path, *words: str, bands: str = "all") -> Path:
    """Pack it; the folder of shards."""
    options = ["--classes", str(classes_file(root)), "--out", str(out), "--workers", "1", "--bands", bands]
    assert main(["folder", "--source", str(root), *options, *words]) == 0
    return out
