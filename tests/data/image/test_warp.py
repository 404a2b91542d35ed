"""Rotation, shear and perspective are a part of the one resampling, and decode only what lies under the crop."""

from typing import Any

import cv2
import numpy as np
import pytest

from msanet.config import DataConfig, parse_config
from msanet.data.image.color import Draws, sample_rng
from msanet.data.image.crop import CropParams, crop_image, crop_pair
from msanet.data.image.warp import choose_warp, shift, warp_window
from support.images import Pixels

FILL = (9, 8, 7)
STRONG: dict[str, Any] = {"rotation": 40, "shear": 20, "perspective": 0.9}


def settings(**data: Any) -> DataConfig:
    return parse_config({"data": data}, "test").data


def warp(size: tuple[int, int], number: int = 0, **data: Any) -> np.ndarray:
    return choose_warp(size, settings(**data), sample_rng(0, 0, number, Draws.WARP))


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return image, rng.integers(0, 30, (height // 8 + 1, width // 8 + 1), np.uint8).repeat(8, 0).repeat(8, 1)[
        :height, :width
    ]


def test_at_strength_0_it_is_the_identity() -> None:
    assert np.allclose(warp((30, 40)), np.eye(3), atol=1e-6)


def test_a_rotation_is_about_the_center_and_within_its_bound() -> None:
    for number in range(50):
        found = warp((31, 41), number, rotation=30)
        assert np.allclose(found @ (20, 15, 1), (20, 15, 1))
        angle = np.degrees(np.arctan2(found[1, 0], found[0, 0]))
        assert -30 <= angle <= 30 and np.isclose(np.linalg.det(found), 1)


def test_the_corners_of_a_perspective_move_by_less_than_a_quarter_of_the_sides() -> None:
    ends = np.array([[-0.5, -0.5, 1], [39.5, -0.5, 1], [39.5, 29.5, 1], [-0.5, 29.5, 1]]).T
    moved = []
    for number in range(200):
        found = warp((30, 40), number, perspective=0.99)
        x, y, w = found @ ends
        assert (w > 0).all()  # finite everywhere in the crop
        moved.append(np.abs(np.stack([x / w, y / w, np.ones(4)]) - ends).max(axis=1))
    assert 9 < np.max(moved, axis=0)[0] <= 10 and 7 < np.max(moved, axis=0)[1] <= 7.5


@pytest.mark.parametrize("number", range(20))
def test_a_window_that_is_decoded_first_equals_warping_the_complete_image(number: int) -> None:
    image, label = picture(100, 140)
    rng = np.random.default_rng(number)
    resized, window = (
        (int(100 * rng.uniform(0.6, 2)), int(140 * rng.uniform(0.6, 2))),
        (*rng.integers(-20, 60, 2), 30, 40),
    )
    flip = bool(number % 2), bool(number % 3)
    params = CropParams(resized, window, flip, warp((30, 40), number, **STRONG))
    to_source = np.diag([140 / resized[1], 100 / resized[0], 1]) @ shift(window[1] + 0.5, window[0] + 0.5)
    to_source = shift(-0.5, -0.5) @ to_source @ params.warp
    flags = cv2.WARP_INVERSE_MAP
    want = cv2.warpPerspective(image, to_source, (40, 30), flags=flags | cv2.INTER_LINEAR, borderValue=FILL)
    want_label = cv2.warpPerspective(label, to_source, (40, 30), flags=flags | cv2.INTER_NEAREST, borderValue=(255,))
    turn = {(True, True): -1, (True, False): 1, (False, True): 0}.get(flip)
    if turn is not None:
        want, want_label = cv2.flip(want, turn), cv2.flip(want_label, turn)
    found, found_label = crop_pair(Pixels(image), Pixels(label), [params], 1.0, FILL)
    assert np.abs(found.astype(int) - want).max() <= 1
    assert (found_label != want_label).mean() < 0.005  # ties of rounding between two pixels


def test_only_what_lies_under_the_crop_is_decoded() -> None:
    image = Pixels(picture(400, 600)[0])
    crop_image(image, CropParams((400, 600), (100, 200, 60, 80), (False, False), warp((60, 80), **STRONG)), FILL)
    assert image.asked < 5 * 60 * 80


def test_what_lies_outside_has_the_mean_color_and_an_ignored_label() -> None:
    image, label = picture(20, 20)
    params = CropParams((20, 20), (200, 300, 8, 8), (False, False), warp((8, 8), **STRONG))
    found, found_label = crop_pair(Pixels(image), Pixels(label), [params], 0.5, FILL)
    assert (found == FILL).all() and (found_label == 255).all()


def test_image_and_label_move_together() -> None:
    square = np.zeros((60, 60), np.uint8)
    square[20:40, 20:40] = 1
    params = CropParams((90, 90), (10, 10, 64, 64), (True, False), warp((64, 64), 3, **STRONG))
    image, label = crop_pair(Pixels(255 * square[..., None].repeat(3, 2)), Pixels(square), [params], 1.0, (0, 0, 0))
    assert label.max() == 255 or label.max() == 1
    inside = label != 255
    assert ((image[..., 0] > 127) == (label == 1))[inside].mean() > 0.99 and (label == 1).sum() > 100


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [1, 4, 7])
def test_any_bands_and_depth(dtype: type, bands: int) -> None:
    image: np.ndarray = np.random.default_rng(0).integers(0, 256, (30, 40, bands)).astype(dtype)
    fill = tuple(range(100, 100 + bands))
    to_source = shift(-10, 0) @ warp((30, 40), 1, **STRONG)
    found = warp_window(Pixels(image), to_source, (30, 40), fill, cv2.INTER_NEAREST)
    assert found.dtype == dtype and found.shape == (30, 40, bands)
    inside = warp_window(Pixels(np.ones((30, 40), np.uint8)), to_source, (30, 40), 0, cv2.INTER_NEAREST) == 1
    assert inside.any() and not inside.all() and (found[~inside] == fill).all()
    for band in range(bands):
        alone = warp_window(Pixels(image[..., band].copy()), to_source, (30, 40), fill[band], cv2.INTER_NEAREST)
        assert np.array_equal(found[..., band], alone)
