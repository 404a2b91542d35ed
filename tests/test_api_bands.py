"""A network for bands in Python: predict, evaluate with a report, export, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msanet.api.model import Model
from msanet.config import EvaluationConfig
from msanet.data.manifest import load_manifest
from msanet.demo.segmenter import Limits, Segmenter
from msanet.models.io import load_network, save_network
from support.band_images import band_image, pack_bands, write_band_folder
from support.errors import raises_user_error
from support.metadata import metadata


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_band_folder(tmp_path / "source", channels=5)
    return pack_bands(tmp_path / "source", tmp_path / "shards")


@pytest.fixture
def model(shards: Path) -> Model:
    manifest = load_manifest(shards)
    values = {"mean": (3000.0,) * 5, "std": (400.0,) * 5, "image": manifest.image, "shown_bands": (5, 4, 1)}
    own = metadata("unet", classes=manifest.classes, width=0.02, in_channels=5).model_copy(update=values)
    torch.manual_seed(0)
    return Model(own.build().eval(), own, EvaluationConfig(num_workers=0, window=(64, 64)))


def test_arrays_and_files_of_bands_are_predicted_alike(model: Model, tmp_path: Path) -> None:
    pixels = band_image(5, "uint16", seed=0)
    labels = model.predict(pixels)
    assert labels.shape == pixels.shape[:2] and labels.dtype == np.uint8
    assert np.array_equal(model.predict(np.stack([pixels, pixels]))[1], labels)
    assert model.predict(tmp_path / "source" / "images" / "train" / "a.tif").shape == labels.shape
    for wrong in (pixels[..., :3], pixels.astype(np.uint8), Image.new("RGB", (8, 8))):
        with raises_user_error("MSA-API-003", mentions="5"):
            model.predict(wrong)


def test_an_evaluation_of_bands_has_pictures(model: Model, shards: Path, tmp_path: Path) -> None:
    found = model.evaluate(shards, out=tmp_path / "out")
    assert 0 <= found.mean_iou <= 1
    assert "data:image" in (tmp_path / "out" / "report.html").read_text()


def test_data_of_other_bands_are_refused(model: Model, tmp_path: Path) -> None:
    write_band_folder(tmp_path / "other", channels=4)
    other = pack_bands(tmp_path / "other", tmp_path / "others")
    with raises_user_error("MSA-MODEL-790", mentions="4 bands of uint16"):
        model.evaluate(other)


def test_weights_keep_what_their_images_are(model: Model, tmp_path: Path) -> None:
    save_network(tmp_path / "model.safetensors", dict(model.network.state_dict()), model.metadata)
    _, own = load_network(tmp_path / "model.safetensors", torch.device("cpu"))
    assert own == model.metadata


def test_the_demo_page_is_for_rgb(model: Model) -> None:
    with raises_user_error("MSA-DEMO-790", mentions="5 bands of uint16"):
        Segmenter(model.network, model.metadata, model.settings, Limits())


def test_metadata_of_another_number_of_bands_is_damaged(model: Model) -> None:
    with pytest.raises(ValueError, match="5 bands"):
        type(model.metadata).model_validate({**model.metadata.model_dump(), "mean": (1.0, 2.0)})
