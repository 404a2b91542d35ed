"""CropParams is chosen from sizes alone; a window cut first equals resizing everything and cutting then."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from msanet.config import DataConfig, parse_config
from msanet.data.image.codec import LazyImage, open_image, open_label
from msanet.data.image.color import sample_rng
from msanet.data.image.crop import CROP_TRIES, CropParams, choose_crops, crop_image, crop_pair
from msanet.data.image.tiles import encode_tiled
from support.images import read_image

FILL = (9, 8, 7)


class Pixels:
    """A picture in memory that counts what is asked of it."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.size, self.dtype, self.asked = pixels, pixels.shape[:2], pixels.dtype, 0

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        assert 0 <= top <= top + height <= self.size[0] and 0 <= left <= left + width <= self.size[1]
        assert height > 0 and width > 0
        self.asked += height * width
        return self.pixels[top : top + height, left : left + width]


def settings(**data: Any) -> DataConfig:
    return parse_config({"data": data}, "test").data


def image_and_label(height: int, width: int) -> tuple[Pixels, Pixels]:
    """Every pixel tells where it was: R = row, G = column; the label is their sum."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return Pixels(np.stack([rows, columns, rows], -1)), Pixels(rows + columns)


def noise(height: int, width: int) -> tuple[Pixels, Pixels]:
    """The hardest case for interpolation: neighbours have nothing in common."""
    rng = np.random.default_rng(0)
    return Pixels(rng.integers(0, 256, (height, width, 3), np.uint8)), Pixels(
        rng.integers(0, 30, (height, width), np.uint8)
    )


def cut_label(label: LazyImage, geometry: CropParams) -> np.ndarray:
    """The label's part of crop_pair."""
    image = Pixels(np.zeros((*label.size, 3), np.uint8))
    return crop_pair(image, label, [geometry], 1.0, FILL)[1]


def resize_then_cut(image: np.ndarray, label: np.ndarray, geometry: CropParams) -> tuple[np.ndarray, np.ndarray]:
    """What other systems do, with OpenCV and Pillow and no code of ours."""
    height, width = geometry.resized
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    label = np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))
    top, left, crop_h, crop_w = geometry.window
    margin = max(crop_h, crop_w, height, width)
    image = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=FILL)
    label = cv2.copyMakeBorder(label, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=255)
    place = slice(top + margin, top + margin + crop_h), slice(left + margin, left + margin + crop_w)
    steps = slice(None, None, -1 if geometry.flip[1] else 1), slice(None, None, -1 if geometry.flip[0] else 1)
    return image[place][steps], label[place][steps]


def differences(
    image: LazyImage, label: LazyImage, whole: tuple[np.ndarray, np.ndarray], geometry: CropParams
) -> tuple[int, int]:
    """Largest difference of grey levels, and pixels with another label, from resizing and then cutting."""
    want_image, want_label = resize_then_cut(*whole, geometry)
    grey = np.abs(crop_image(image, geometry, FILL).astype(int) - want_image).max()
    return int(grey), int((cut_label(label, geometry) != want_label).sum())


def test_a_window_inside_is_a_crop() -> None:
    image, label = image_and_label(10, 20)
    geometry = CropParams((10, 20), (3, 5, 4, 6), (False, False))
    assert np.array_equal(crop_image(image, geometry, FILL), image.pixels[3:7, 5:11])
    assert np.array_equal(cut_label(label, geometry), label.pixels[3:7, 5:11])
    assert image.asked == label.asked == 4 * 6, "nothing but the crop is decoded"


def test_mirrors_turn_image_and_label_alike() -> None:
    image, label = image_and_label(4, 6)
    for flip, steps in (((True, False), (1, -1)), ((False, True), (-1, 1)), ((True, True), (-1, -1))):
        geometry = CropParams((4, 6), (0, 0, 4, 6), flip)
        turned = tuple(slice(None, None, step) for step in steps)
        assert np.array_equal(crop_image(image, geometry, FILL), image.pixels[turned])
        assert np.array_equal(cut_label(label, geometry), label.pixels[turned])


def test_a_window_outside_is_padded_with_the_mean_color_and_ignored() -> None:
    image, label = image_and_label(3, 4)
    geometry = CropParams((3, 4), (-1, -2, 6, 7), (False, False))
    out, out_label = crop_image(image, geometry, FILL), cut_label(label, geometry)
    assert out.shape == (6, 7, 3) and np.array_equal(out[1:4, 2:6], image.pixels)
    assert np.array_equal(out_label[1:4, 2:6], label.pixels)
    outside = np.ones((6, 7), bool)
    outside[1:4, 2:6] = False
    assert (out[outside] == FILL).all() and (out_label[outside] == 255).all()


def test_a_window_beside_the_image_is_all_padding() -> None:
    image, label = image_and_label(3, 4)
    geometry = CropParams((3, 4), (10, 1, 5, 2), (False, False))
    assert (crop_image(image, geometry, FILL) == FILL).all() and (cut_label(label, geometry) == 255).all()


# Cityscapes, VOC, CamVid, a prime side, and one smaller than the crop.
@pytest.mark.parametrize("size", [(256, 512), (375, 500), (360, 480), (251, 383), (60, 90)], ids=str)
def test_cutting_first_equals_resizing_first(size: tuple[int, int]) -> None:
    image, label = noise(*size)
    config = settings(crop=[128, 192], random_scale=[0.5, 2.0], flip_vertical=0.5)
    worst = [0, 0]
    for number in range(60):
        (geometry,) = choose_crops(size, config, sample_rng(0, 0, number))
        found = differences(image, label, (image.pixels, label.pixels), geometry)
        worst = [max(pair) for pair in zip(worst, found, strict=True)]
    assert worst[0] <= 1, "grey levels"
    assert worst[1] == 0, "labels"


def test_cutting_first_equals_resizing_first_at_a_fixed_size() -> None:
    image, label = noise(375, 500)
    config = settings(crop=[224, 224], resize=[250, 250], random_scale=[0.9, 1.3])
    for number in range(20):
        (geometry,) = choose_crops((375, 500), config, sample_rng(0, 0, number))
        assert differences(image, label, (image.pixels, label.pixels), geometry) <= (1, 0)


def test_cutting_first_equals_resizing_first_on_real_images(test_data: Path) -> None:
    """From tiles, at full resolution; and no more is decoded than the crop needs, or little more."""
    name = "train/aachen/aachen_000000_000019"
    source = read_image(test_data / f"cityscapes/leftImg8bit/{name}_leftImg8bit.png", cv2.IMREAD_COLOR_RGB)
    ids = read_image(test_data / f"cityscapes/gtFine/{name}_gtFine_labelIds.png", cv2.IMREAD_UNCHANGED)
    image, label = open_image(encode_tiled(source), "image"), open_label(encode_tiled(ids), "label")
    config = settings(crop=[512, 1024], random_scale=[0.5, 2.0])
    for number in range(12):
        (geometry,) = choose_crops(source.shape[:2], config, sample_rng(0, 0, number))
        grey, labels = differences(image, label, (source, ids), geometry)
        assert grey <= 1 and labels == 0, os.fspath(name)


def test_little_more_is_asked_for_than_the_crop_needs() -> None:
    config = settings(crop=[128, 256], random_scale=[0.5, 2.0])
    asked = needed = 0.0
    for number in range(200):
        image, _ = noise(512, 1024)
        (geometry,) = choose_crops((512, 1024), config, sample_rng(0, 0, number))
        crop_image(image, geometry, FILL)
        asked += image.asked
        needed += min(512 * 1024, 128 * 256 * (512 / geometry.resized[0]) ** 2)
    assert asked < 2.0 * needed


def test_labels_are_resized_without_new_values() -> None:
    label = Pixels(np.where(np.arange(40 * 60).reshape(40, 60) % 7 < 3, 3, 200).astype(np.uint8))
    for size in ((17, 31), (90, 111)):
        out = cut_label(label, CropParams(size, (0, 0, *size), (False, False)))
        assert out.shape == size and set(np.unique(out)) == {3, 200}


@pytest.mark.parametrize("size", [(100, 200), (20, 300), (33, 37)])
def test_every_draw_gives_the_crop_and_touches_the_image(size: tuple[int, int]) -> None:
    config = settings(crop=[48, 64], random_scale=[0.5, 2.0], flip_horizontal=0.5)
    scales, mirrors = [], []
    for seed in range(300):
        (geometry,) = choose_crops(size, config, sample_rng(0, 0, seed))
        top, left, height, width = geometry.window
        assert (height, width) == (48, 64)
        for first, length, side in ((top, 48, geometry.resized[0]), (left, 64, geometry.resized[1])):
            assert 0 <= first <= side - length if side >= length else side - length <= first <= 0
        scales.append(geometry.resized[1] / size[1])
        mirrors.append(geometry.flip)
    assert 0.48 < min(scales) < 0.55 and 1.8 < max(scales) < 2.02
    assert np.median(scales) == pytest.approx(1.25, abs=0.1), "the scale is uniform"
    assert 0.4 < np.mean([left_right for left_right, _ in mirrors]) < 0.6
    assert not any(top_bottom for _, top_bottom in mirrors)


def test_sides_keep_their_ratio() -> None:
    config = settings(crop=[64, 64], random_scale=[0.5, 2.0])
    for size in ((1024, 2048), (375, 500), (360, 480), (719, 1283)):
        for number in range(50):
            ((height, width), _, _) = choose_crops(size, config, sample_rng(0, 0, number))[0]
            assert height / size[0] == pytest.approx(width / size[1], rel=0.01)


def test_all_places_of_a_crop_occur() -> None:
    config = settings(crop=[4, 4])
    tops = {choose_crops((7, 4), config, sample_rng(1, 0, n))[0].window[0] for n in range(200)}
    assert tops == {0, 1, 2, 3}


def test_the_papers_recipe() -> None:
    """MSANet section 4.2: to 250x250, then a random crop of 224x224."""
    (geometry,) = choose_crops((375, 500), settings(resize=[250, 250], crop=[224, 224]), sample_rng(0, 0, 0))
    assert geometry.resized == (250, 250) and geometry.window[2:] == (224, 224)


def test_crops_of_one_class_are_drawn_again() -> None:
    """Nearly all is class 1; crops without class 2, or nearly so, are refused as long as there are tries left."""
    label = np.ones((100, 100), np.uint8)
    label[60:, 60:] = 2
    label[:5] = 255  # does not count
    image = Pixels(np.zeros((100, 100, 3), np.uint8))
    shares = {}
    for bound in (0.75, 1.0):
        config = settings(crop=[40, 40], cat_max_ratio=bound)
        crops = []
        for number in range(200):
            tries = choose_crops((100, 100), config, sample_rng(0, 0, number))
            assert len(tries) == (CROP_TRIES if bound < 1 else 1)
            crops.append(crop_pair(image, Pixels(label), tries, bound, FILL)[1])
        counts = [np.bincount(crop[crop != 255], minlength=3) for crop in crops]
        shares[bound] = np.mean([count.max() <= 0.75 * count.sum() for count in counts])
    assert shares[1.0] < 0.25 < 0.7 < shares[0.75]


def test_the_first_crop_that_is_mixed_enough_is_taken_else_the_last() -> None:
    label = np.zeros((4, 40), np.uint8)
    label[:, 24:28] = 1  # only the window at 20 is half and half
    image = Pixels(np.zeros((4, 40, 3), np.uint8))
    windows = [CropParams((4, 40), (0, left, 4, 8), (False, False)) for left in (0, 20, 24, 10)]
    assert (crop_pair(image, Pixels(label), windows, 0.5, FILL)[1] == 1).sum() == 16
    assert (crop_pair(image, Pixels(label), windows, 0.4, FILL)[1] == 0).all(), "none fits: the last"
    assert (crop_pair(image, Pixels(label), windows, 1.0, FILL)[1] == 0).all(), "any crop: the first"
    unlabelled = Pixels(np.full((4, 40), 255, np.uint8))
    assert (crop_pair(image, unlabelled, windows, 0.75, FILL)[1] == 255).all()
