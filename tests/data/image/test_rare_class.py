"""Crops hold rare classes more often, without leaving the image."""

from typing import Any

import numpy as np

from msanet.config import DataConfig, parse_config
from msanet.data.image.color import Draws, sample_rng
from msanet.data.image.crop import CropParams, choose_crops, crop_pair
from msanet.data.image.rare_class import crop_around_rare_class
from support.errors import raises_user_error
from support.images import Pixels

CLASS_PIXELS = (1_000_000, 10_000, 0)


def settings(**data: Any) -> DataConfig:
    return parse_config({"data": data}, "test").data


def label_with_a_spot() -> np.ndarray:
    label_HW = np.zeros((100, 200), np.uint8)
    label_HW[90:93, 5:8] = 1
    label_HW[:10] = 255
    return label_HW


def crop(number: int, probability: float, **data: Any) -> tuple[list[CropParams], list[CropParams]]:
    before = choose_crops((100, 200), settings(**data), sample_rng(0, 0, number))
    label, draws = Pixels(label_with_a_spot()), sample_rng(0, 0, number, Draws.RARE_CLASS)
    return before, crop_around_rare_class(label, before, CLASS_PIXELS, probability, draws)


def test_nothing_at_probability_0() -> None:
    before, after = crop(0, 0.0, crop=[30, 40])
    assert after is before


def test_the_rare_class_is_in_nearly_every_crop() -> None:
    label, found, places = Pixels(label_with_a_spot()), 0, set()
    for number in range(100):
        _, crops = crop(number, 1.0, crop=[30, 40], random_scale=[0.7, 1.6], cat_max_ratio=1)
        (params,) = crops
        (top, left, height, width), (full_h, full_w) = params.window, params.resized
        assert 0 <= top <= full_h - height and 0 <= left <= full_w - width
        image = Pixels(np.zeros((100, 200, 3), np.uint8))
        found += 1 in crop_pair(image, label, crops, 1.0, (0, 0, 0))[1]
        places.add((top, left))
    assert found >= 95 and len(places) > 50  # 1 of 101 draws is of the frequent class


def test_other_tries_and_small_images_stay_as_they_were() -> None:
    before, after = crop(2, 1.0, crop=[30, 40], cat_max_ratio=0.5)
    assert after[1:] == before[1:] and after[0] != before[0]
    before, after = crop(1, 1.0, crop=[150, 300])
    assert after == before


def test_an_image_without_labels_keeps_its_crop() -> None:
    before = choose_crops((50, 50), settings(crop=[30, 40]), sample_rng(0, 0, 0))
    ignored = Pixels(np.full((50, 50), 255, np.uint8))
    assert crop_around_rare_class(ignored, before, CLASS_PIXELS, 1.0, sample_rng(0, 0, 0, 2)) == before


def test_it_needs_a_crop() -> None:
    with raises_user_error("MSA-CONFIG-007", setting="data.rare_class_crops"):
        settings(rare_class_crops=0.5)
