"""The demo page: what it answers, and what it keeps."""

import base64
import io
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from msanet.config import EvaluationConfig
from msanet.data.image.color import normalize
from msanet.datasets import CAMVID
from msanet.demo.segmenter import Limits, Segmenter
from msanet.inference.predictor import Predictor
from msanet.models.msanet import MSANet
from support.demo_visitor import Visitor, encoded, pixels, segmenter, unpacked
from support.images import decode_pixels
from support.metadata import MEAN, STD


def expected_labels(served: Segmenter, image_HWC: np.ndarray, **settings: Any) -> np.ndarray:
    predictor = Predictor(served.model, EvaluationConfig(**settings), MEAN, STD)
    return predictor.labels(torch.from_numpy(image_HWC)).numpy()


def test_labels_and_areas_are_the_predictors() -> None:
    served = segmenter("unet")
    answer = Visitor(served).segment(encoded(pixels()))
    expected = expected_labels(served, pixels())
    assert np.array_equal(unpacked(answer["label"]), expected) and len(np.unique(expected)) > 1
    assert answer["areas"] == np.bincount(expected.ravel(), minlength=CAMVID.num_classes).tolist()
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(answer["image"].partition(",")[2]))))
    assert shown.shape == (37, 53, 3) and answer["input"] == [37, 53]


def test_a_photograph_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[274] = 6  # the camera was held upright
    photograph = encoded(pixels(), "JPEG", exif=exif.tobytes())
    served = segmenter("unet")
    upright = np.rot90(decode_pixels(encoded(pixels(), "JPEG"), cv2.IMREAD_COLOR_RGB), -1)
    label = unpacked(Visitor(served).segment(photograph)["label"])
    assert label.shape == (53, 37) and np.array_equal(label, expected_labels(served, upright.copy()))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_other_files_are_turned_as_well(kind: str, options: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[274] = 8
    served = segmenter("unet")
    label = unpacked(Visitor(served).segment(encoded(pixels(), kind, exif=exif.tobytes(), **options))["label"])
    assert np.array_equal(label, expected_labels(served, np.rot90(pixels(), 1).copy()))


def test_the_network_gets_large_images_scaled_down() -> None:
    served = segmenter("unet", Limits(side=32))
    answer = Visitor(served).segment(encoded(pixels(40, 64)))
    assert answer["input"] == [20, 32]
    assert np.array_equal(unpacked(answer["label"]), expected_labels(served, pixels(40, 64), resize=(20, 32)))
    chosen = segmenter("unet", Limits(side=32), EvaluationConfig(resize=(48, 48)))
    assert Visitor(chosen).segment(encoded(pixels(40, 64)))["input"] == [48, 48]


@pytest.mark.parametrize(
    ("resize", "options"), [(None, {}), ((30, 44), {}), (None, {"attention_pool": 2, "attention_window": 4})]
)
def test_attention_is_the_models_and_the_encoder_runs_once_per_image(
    resize: tuple[int, int] | None, options: dict[str, Any]
) -> None:
    served = segmenter("msanet", settings=EvaluationConfig(resize=resize), **options)
    visitor, model = Visitor(served), served.model
    assert isinstance(model, MSANet)
    key = visitor.segment(encoded(pixels()))["key"]
    passes = []
    model.encoder[0].register_forward_hook(lambda *_: passes.append(1))
    queries = [(0, 0), (36, 52), (17, 30)]
    found = [visitor.maps(key, *query) for query in queries]
    assert len(passes) == 1

    x_1CHW = normalize(torch.from_numpy(pixels())[None], MEAN, STD)
    rows, columns = resize or (37, 53)
    if resize:
        x_1CHW = nn.functional.interpolate(x_1CHW, resize, mode="bilinear", antialias=True)
    for (row, column), maps in zip(queries, found, strict=True):
        expected = model.attention_maps(x_1CHW, [(row * rows // 37, column * columns // 53)])
        assert set(maps) == {"quarter", "half"}
        for name, levels in maps.items():
            strength = (expected[name][0, 0] / expected[name].max()).sqrt().numpy() * 255
            assert levels.shape == strength.shape
            np.testing.assert_allclose(levels, strength, atol=0.51)
    assert not np.array_equal(found[0]["half"], found[1]["half"])


def test_weights_of_scales_are_maps_and_other_networks_have_none() -> None:
    served = segmenter("attention_to_scale", network="unet", scales="1,0.5")
    visitor = Visitor(served)
    maps = visitor.maps(visitor.segment(encoded(pixels()))["key"])
    assert set(maps) == {"1", "0.5"} and maps["1"].shape == (37, 53)
    np.testing.assert_allclose(maps["1"].astype(int) + maps["0.5"], 255, atol=1)
    assert segmenter("unet").map_names == segmenter("msanet", attention="fusion").map_names == ()


def test_only_the_last_images_are_kept_and_bad_requests_are_refused() -> None:
    visitor = Visitor(segmenter("msanet"))
    keys = [visitor.segment(encoded(pixels()))["key"] for _ in range(5)]
    assert len(set(keys)) == 5 and visitor.maps(keys[1])
    for body, code in (
        ({"key": keys[0], "row": 0, "column": 0}, "MSA-DEMO-002"),
        ({"key": keys[4], "row": 37, "column": 0}, "MSA-DEMO-003"),
        ({"key": keys[4], "row": -1, "column": 0}, "MSA-DEMO-003"),
        ({"key": keys[4]}, "MSA-DEMO-001"),
        ([], "MSA-DEMO-001"),
    ):
        answer = visitor.post("/maps", json=body)
        assert answer.status_code == 400 and answer.get_json()["code"] == code, answer.get_json()
