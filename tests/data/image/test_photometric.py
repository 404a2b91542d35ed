"""Colors change as the definitions say, each setting by draws of its own, and nothing at strength 0."""

from typing import Any

import cv2
import numpy as np
import pytest

from msanet.config import DataConfig, parse_config
from msanet.config.augmentation import PHOTOMETRIC
from msanet.data.image.color import Draws, sample_rng
from msanet.data.image.photometric import photometric
from support.errors import raises_user_error

FILL = (9, 8, 7)


def settings(**data: Any) -> DataConfig:
    return parse_config({"data": data}, "test").data


def changed(image: np.ndarray, number: int = 0, **data: Any) -> np.ndarray:
    before = image.copy()
    result = photometric(image, settings(**data), sample_rng(0, 0, number, Draws.PHOTOMETRIC), FILL, "shard:key")
    assert np.array_equal(image, before) and result.dtype == np.uint8 and result.shape == image.shape
    return result


@pytest.fixture
def image() -> np.ndarray:
    """Smooth colors, away from black and white."""
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(40, 210, (6, 8, 3), np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)


def test_nothing_at_strength_0(image: np.ndarray) -> None:
    assert np.array_equal(changed(image, hue=1e-9, gamma=1e-9), image)


@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_each_changes_pixels_the_same_way_each_time(image: np.ndarray, name: str) -> None:
    strength = {"hue": 0.2, "gamma": 0.5}.get(name, 1.0)
    results = [changed(image, number, **{name: strength}) for number in (0, 1, 0)]
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], image)
    assert name == "grayscale" or not np.array_equal(results[0], results[1])


def test_a_probability_is_one(image: np.ndarray) -> None:
    gray = sum(np.ptp(changed(image, number, grayscale=0.3), axis=2).max() == 0 for number in range(200))
    assert 40 < gray < 80


def test_one_setting_does_not_change_what_another_draws(image: np.ndarray) -> None:
    alone = changed(image, gamma=0.5)
    assert np.array_equal(changed(alone, grayscale=1.0), changed(image, gamma=0.5, grayscale=1.0))


def test_definitions(image: np.ndarray) -> None:
    gray = changed(image, grayscale=1.0)
    assert np.abs(gray[..., 0] - image @ np.array([0.299, 0.587, 0.114])).max() < 1
    luma = [pixels @ np.array([0.299, 0.587, 0.114]) for pixels in (image, changed(image, hue=0.03))]
    assert np.abs(luma[0] - luma[1]).max() < 2  # a turned hue keeps the luma
    table = (
        changed(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2), gamma=0.5)[..., 0].ravel().astype(int)
    )
    assert table[0] == 0 and table[255] == 255 and (np.diff(table) >= 0).all()
    hole = (changed(image, cutout=1.0) == FILL).all(axis=2)
    rows, columns = hole.any(1).sum(), hole.any(0).sum()
    assert hole.sum() == rows * columns and 7 <= rows <= 30 and 10 <= columns <= 40


@pytest.mark.parametrize("pixels", [np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3), np.uint16)])
def test_other_pixels_than_8_bit_rgb_are_refused(pixels: np.ndarray) -> None:
    with raises_user_error("MSA-DATA-752", setting="data.hue", mentions="shard:key"):
        changed(pixels, hue=0.1)
