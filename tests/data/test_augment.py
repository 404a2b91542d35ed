"""Geometry is chosen from sizes alone and applied exactly; colour is done on the device."""

from typing import Any

import numpy as np
import pytest
import torch

from msanet.config import DataConfig, parse_config
from msanet.data.augment import (
    Geometry,
    apply_geometry,
    choose_geometry,
    choose_jitter,
    colour_jitter,
    normalise,
    sample_rng,
)

FILL = (9, 8, 7)


def settings(**data: Any) -> DataConfig:
    return parse_config({"data": data}, "test").data


def image_and_label(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel tells where it was: R = row, G = column; the label is their sum."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, rows], -1), rows + columns


def test_a_window_inside_is_a_crop() -> None:
    image, label = image_and_label(10, 20)
    out, out_label = apply_geometry(image, label, Geometry((10, 20), (3, 5, 4, 6), (False, False)), FILL)
    assert np.array_equal(out, image[3:7, 5:11]) and np.array_equal(out_label, label[3:7, 5:11])


def test_mirrors_turn_image_and_label_alike() -> None:
    image, label = image_and_label(4, 6)
    out, out_label = apply_geometry(image, label, Geometry((4, 6), (0, 0, 4, 6), (True, False)), FILL)
    assert np.array_equal(out, image[:, ::-1]) and np.array_equal(out_label, label[:, ::-1])
    out, out_label = apply_geometry(image, label, Geometry((4, 6), (0, 0, 4, 6), (True, True)), FILL)
    assert np.array_equal(out, image[::-1, ::-1]) and np.array_equal(out_label, label[::-1, ::-1])


def test_a_window_outside_is_padded_with_the_mean_colour_and_ignored() -> None:
    image, label = image_and_label(3, 4)
    out, out_label = apply_geometry(image, label, Geometry((3, 4), (-1, -2, 6, 7), (False, False)), FILL)
    assert (
        out.shape == (6, 7, 3) and np.array_equal(out[1:4, 2:6], image) and np.array_equal(out_label[1:4, 2:6], label)
    )
    outside = np.ones((6, 7), bool)
    outside[1:4, 2:6] = False
    assert (out[outside] == FILL).all() and (out_label[outside] == 255).all()


def test_labels_are_resized_without_new_values() -> None:
    label = np.where(np.arange(40 * 60).reshape(40, 60) % 7 < 3, 3, 200).astype(np.uint8)
    image = np.zeros((40, 60, 3), np.uint8)
    for size in ((17, 31), (90, 111)):
        out = apply_geometry(image, label, Geometry(size, (0, 0, *size), (False, False)), FILL)[1]
        assert out.shape == size and set(np.unique(out)) == {3, 200}


@pytest.mark.parametrize("size", [(100, 200), (20, 300), (33, 37)])
def test_every_draw_gives_the_crop_and_touches_the_image(size: tuple[int, int]) -> None:
    config = settings(crop=[48, 64], scale=[0.5, 2.0], flip_horizontal=0.5)
    scales, mirrors = [], []
    for seed in range(300):
        geometry = choose_geometry(size, config, sample_rng(0, 0, seed))
        top, left, height, width = geometry.window
        assert (height, width) == (48, 64)
        for first, length, side in ((top, 48, geometry.resized[0]), (left, 64, geometry.resized[1])):
            assert 0 <= first <= side - length if side >= length else side - length <= first <= 0
        scales.append(geometry.resized[1] / size[1])
        mirrors.append(geometry.mirror)
    assert 0.49 < min(scales) < 0.55 and 1.8 < max(scales) < 2.02
    assert np.median(scales) == pytest.approx(1.0, abs=0.1), "the scale is log-uniform"
    assert 0.4 < np.mean([left_right for left_right, _ in mirrors]) < 0.6
    assert not any(top_bottom for _, top_bottom in mirrors)


def test_all_places_of_a_crop_occur() -> None:
    config = settings(crop=[4, 4])
    tops = {choose_geometry((7, 4), config, sample_rng(1, 0, n)).window[0] for n in range(200)}
    assert tops == {0, 1, 2, 3}


def test_the_papers_recipe() -> None:
    """MSANet section 4.2: to 250x250, then a random crop of 224x224."""
    geometry = choose_geometry((375, 500), settings(resize=[250, 250], crop=[224, 224]), sample_rng(0, 0, 0))
    assert geometry.resized == (250, 250) and geometry.window[2:] == (224, 224)


def test_randomness_is_a_function_of_seed_epoch_and_sample() -> None:
    draws = {key: sample_rng(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(set(draws.values())) == 4
    assert sample_rng(0, 1, 0).random() == draws[0, 1, 0]
    assert choose_jitter(settings(), sample_rng(0, 0, 0)) == (1.0, 1.0, 1.0)
    brightness, contrast, saturation = choose_jitter(settings(brightness=0.5, contrast=0.1), sample_rng(0, 0, 0))
    assert 0.5 <= brightness <= 1.5 and 0.9 <= contrast <= 1.1 and saturation == 1.0


def test_normalisation_by_hand() -> None:
    pixels = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
    x = normalise(pixels, (5.0, 10.0, 15.0), (5.0, 2.0, 3.0))
    assert x.shape == (1, 3, 1, 1) and x.flatten().tolist() == [1.0, 5.0, 5.0]
    assert normalise(torch.zeros(2, 4, 5, 3, dtype=torch.uint8), (0, 0, 0), (1, 1, 1)).is_contiguous(
        memory_format=torch.channels_last
    )


def test_colour_jitter_by_hand() -> None:
    images = torch.tensor([[[[100, 100, 100], [200, 200, 200]]]] * 4, dtype=torch.uint8)
    factors = torch.tensor([[1.0, 1, 1], [0.5, 1, 1], [1, 0.5, 1], [2, 1, 1]])
    out = colour_jitter(images, factors)[..., 0].squeeze(1)
    torch.testing.assert_close(out, torch.tensor([[100.0, 200], [50, 100], [125, 175], [200, 255]]))
    red = torch.tensor([[[[200, 0, 0]]]], dtype=torch.uint8)
    grey = colour_jitter(red, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(grey, torch.full((1, 1, 1, 3), 0.299 * 200))
