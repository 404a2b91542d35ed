"""Twelve bands of 16 bits from files to a prediction with a georeference, by the commands."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import REPOSITORY
from support.band_images import band_image, pack_bands, write_band_folder


def run(*words: object) -> str:
    command = [sys.executable, "-m", "msanet", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_bands_are_trained_on_evaluated_predicted_and_exported(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    write_band_folder(tmp_path / "source")
    shards = pack_bands(tmp_path / "source", tmp_path / "shards")
    network = ["model.name=unet", "model.width=0.05", "model.in_channels=12"]
    training = ["data.crop=[64,64]", "data.num_workers=1", "trainer.global_batch_size=2", "evaluation.num_workers=0"]
    jitter = ["data.brightness=0.2", "data.contrast=0.2", "data.random_scale=[0.5,2]", "report.bands=[4,3,2]"]
    words = [f"data.path={shards}", f"run.dir={tmp_path / 'run'}", *network, *training, *jitter]
    said = run("train", *words, "trainer.steps=2")
    assert "12 bands of uint16" in said
    run("train", *words, "trainer.steps=3")  # resumes with the same measured normalization
    run("evaluate", "--run", tmp_path / "run", "--split", "val", "report.bands=[12,1,5]")
    assert json.loads((tmp_path / "run" / "evaluation-val.json").read_text())
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(500_000, 5_600_000, 10, 10)}
    pixels = band_image(12, "uint16", size=(300, 270))
    profile = {"driver": "GTiff", "height": 300, "width": 270, "count": 12, "dtype": "uint16"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile, **place) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    out = tmp_path / "out"
    run(
        "predict",
        "--run",
        tmp_path / "run",
        "--images",
        tmp_path / "scene.tif",
        "--out",
        out,
        "evaluation.window=[128,128]",
    )
    with rasterio.open(out / "scene.palette.tif") as file:
        assert file.crs.to_epsg() == 32633 and file.transform == place["transform"] and file.read(1).max() <= 1
    run("export", "--run", tmp_path / "run", "--to", "torch")
    run("doctor", *words, "trainer.steps=40")


def test_the_example_of_bands_runs(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    command = [sys.executable, f"{REPOSITORY}/examples/bands.py", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "prediction.tif").is_file()
