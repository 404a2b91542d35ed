"""Transforms of the user's own move image and label together, by random numbers of ours, and are held to what they may return."""

import random
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from kornia import augmentation as K
from torchvision import transforms as torchvision_v1
from torchvision.transforms import v2

from msanet.config import parse_config
from msanet.data.image.color import Draws, sample_rng
from msanet.data.pipeline import augment
from msanet.data.transforms import apply_transforms, open_transforms
from msanet.training.train import train
from support.errors import raises_user_error

ALBUMENTATIONS = A.Compose([A.Affine(rotate=(20, 40), scale=(0.5, 0.7), p=1), A.RandomBrightnessContrast(p=1)])
ONE_OF_ALBUMENTATIONS = A.HorizontalFlip(p=0.5)
TORCHVISION = v2.Compose([v2.RandomAffine(degrees=(20, 40), scale=(0.5, 0.7)), v2.ColorJitter(0.4)])
KORNIA = K.AugmentationSequential(
    K.RandomAffine(degrees=(20.0, 40.0), scale=(0.5, 0.7), p=1.0), K.ColorJitter(0.2, 0.2), data_keys=["input", "mask"]
)
ONE_OF_KORNIA = K.RandomHorizontalFlip(p=0.5)
FIRST_API = torchvision_v1.ColorJitter(0.5)
CLASSES = 3


def flip(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Any:
    return (image[:, ::-1], label[:, ::-1]) if rng.random() < 0.5 else (image, label)


def draw_from_everywhere(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Any:
    image[:] = random.randrange(256)
    image[0] = np.random.randint(256)
    image[1] = int(torch.randint(256, ()))
    cv2.randu(image[2:3], np.zeros(3), np.full(3, 256.0))
    return image, label


def half(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Any:
    return image[::2], label[::2]


def as_float(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Any:
    return image / 255, label


def unknown_class(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Any:
    return image, label + 1


def image_alone(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Any:
    return image


def broken(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Any:
    raise KeyError("mask")


class NeedsArguments:
    def __init__(self, size: int) -> None: ...

    def __call__(self) -> None: ...


def own(name: str) -> str:
    return f"{__file__}:{name}"


def square() -> tuple[np.ndarray, np.ndarray]:
    """A white square of class 2 on black of class 1; read-only, as windows of shards are."""
    label = np.ones((40, 40), np.uint8)
    label[12:28, 12:28] = 2
    image = np.where(label == 2, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
    for pixels in (image, label):
        pixels.flags.writeable = False
    return image, label


def apply(*names: str, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draws = sample_rng(0, 0, number, Draws.TRANSFORMS)
    return apply_transforms(tuple(map(own, names)), *square(), CLASSES, draws, "shard:key")


@pytest.mark.parametrize("name", ["ALBUMENTATIONS", "TORCHVISION", "KORNIA"])
def test_libraries_move_image_and_label_together_and_ignore_what_is_outside(name: str) -> None:
    image, label = apply(name)
    assert image.dtype == label.dtype == np.uint8 and image.shape == (40, 40, 3) and label.shape == (40, 40)
    assert set(np.unique(label)) == {1, 2, 255}  # never 0, with which they fill
    assert (label == 255).mean() > 0.3 and 40 < (label == 2).sum() < 200
    bright = image[..., 0].astype(int) > np.median(image[label == 2]) / 2
    assert (bright == (label == 2))[label != 255].mean() > 0.93


@pytest.mark.parametrize(
    "name",
    [
        "ALBUMENTATIONS",
        "ONE_OF_ALBUMENTATIONS",
        "TORCHVISION",
        "KORNIA",
        "ONE_OF_KORNIA",
        "flip",
        "draw_from_everywhere",
    ],
)
def test_each_call_is_seeded_by_us_and_global_generators_stay(name: str) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    first = [apply(name, number=number) for number in range(8)]
    apply("draw_from_everywhere")
    again = [apply(name, number=number) for number in reversed(range(8))][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    is_drawn_once = name in ("flip", "ONE_OF_ALBUMENTATIONS", "ONE_OF_KORNIA")
    if not is_drawn_once:  # of a flip of a symmetric square nothing is seen
        assert len({image.tobytes() for image, _ in first}) == 8
    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    assert now == states


def test_several_are_applied_one_after_the_other() -> None:
    image, label = apply("draw_from_everywhere", "ALBUMENTATIONS")
    assert (label == 255).any() and len(np.unique(image)) > 2


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("half", "20x40x3"),
        ("as_float", "float64"),
        ("unknown_class", "3"),
        ("image_alone", "ndarray"),
        ("FIRST_API", "first API"),
    ],
)
def test_what_is_not_such_a_pair_is_refused(name: str, found: str) -> None:
    with raises_user_error("MSA-DATA-751", setting="data.transforms", mentions=found):
        apply(name)


@pytest.mark.parametrize(("name", "found"), [("broken", "KeyError"), ("NeedsArguments", "TypeError")])
def test_what_raises_is_named(name: str, found: str) -> None:
    with raises_user_error("MSA-DATA-750", setting="data.transforms", mentions=found):
        apply(name)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with raises_user_error("MSA-CONFIG-651", setting="data.transforms", mentions=f"in {__file__}"):
        open_transforms((own("Flip"),))
    data = {"path": str(tmp_path / "shards"), "transforms": [own("Flip")]}
    with raises_user_error("MSA-CONFIG-651", setting="data.transforms"):
        train(parse_config({"data": data, "run": {"dir": str(tmp_path / "run")}}, "test"))
    assert not (tmp_path / "run").exists()
    with raises_user_error("MSA-CONFIG-651", setting="data.transforms"):
        open_transforms(("flip",))


def test_files_are_found_from_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    data = parse_config({"data": {"transforms": ["my.py:F", "albumentations:Transpose"]}}, "test").data
    assert data.with_absolute_paths().transforms == (f"{Path.cwd()}/my.py:F", "albumentations:Transpose")


def test_no_sample_is_a_bad_one_because_a_transform_fails() -> None:
    image, label = square()
    sample = {"__url__": "s", "__key__": "k", "image.npy": image, "label.npy": label, "number": 0, "epoch": 0}
    settings = {"transforms": [own("broken")], "crop": [20, 20], "on_bad_sample": "skip"}
    with raises_user_error("MSA-DATA-750", setting="data.transforms", mentions="s:k"):
        list(augment([[sample]], parse_config({"data": settings}, "test").data, 0, (1, 1, 1)))
