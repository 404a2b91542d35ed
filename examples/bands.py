"""Twelve bands of 16 bits from files to a GeoTIFF of classes, with synthetic images: python examples/bands.py FOLDER

Needs rasterio: pip install 'msanet[geo]'
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

import msanet

BANDS = 12
CLASSES = "classes: [{id: 0, name: field}, {id: 1, name: water}]\n"
PLACE = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(500_000, 5_600_000, 10, 10)}


def scene(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(BANDS, height, width) of reflectances, in which water is darker the higher the band, and its label."""
    rng = np.random.default_rng(seed)
    label_HW = np.zeros((height, width), np.uint8)
    label_HW[height // 4 : height // 2, width // 4 + 5 * seed :] = 1
    image_CHW = rng.normal(3000, 200, (BANDS, height, width))
    image_CHW -= label_HW * np.linspace(500, 2500, BANDS)[:, None, None]
    return image_CHW.clip(0).astype(np.uint16), label_HW


def write(path: Path, pixels_CHW: np.ndarray, place: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels_CHW.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels_CHW.dtype}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **place}) as file:
        file.write(pixels_CHW)


def main(folder: Path) -> None:
    for number in range(6):
        split = "train" if number < 4 else "val"
        image_CHW, label_HW = scene(96, 128, number)
        write(folder / f"source/images/{split}/{number}.tif", image_CHW, PLACE)
        write(folder / f"source/labels/{split}/{number}.png", label_HW[None], {"driver": "PNG"})
    (folder / "classes.yaml").write_text(CLASSES)
    msanet.pack("folder", folder / "source", folder / "shards", classes=folder / "classes.yaml", bands="all")

    data = {"path": folder / "shards", "crop": [64, 64], "num_workers": 0}  # mean and std of each band were measured
    network = {"name": "unet", "width": 0.1, "in_channels": BANDS}
    trainer = {"steps": 20, "global_batch_size": 4}
    run = msanet.train(data=data, dir=folder / "run", model=network, trainer=trainer, report={"bands": [4, 3, 2]})

    image_CHW, _ = scene(96, 128, 7)
    label_HW = msanet.load(run).predict(np.moveaxis(image_CHW, 0, 2))
    write(folder / "prediction.tif", label_HW[None], PLACE)
    print(f"water: {(label_HW == 1).mean():.0%} of the pixels, written to {folder / 'prediction.tif'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
