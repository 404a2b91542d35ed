"""Transforms of the user's own (`data.transforms`): of albumentations, torchvision v2 or Kornia, or a function.

Each call is seeded from (seed, epoch, sample), so that it gives the same on any ranks and after any resume. A pixel that a
library's transform takes from outside the image is ignored in the label, whatever the library fills with.
"""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch

from msanet.datasets import ignore_index, ignored_value, label_dtype
from msanet.errors import UserError
from msanet.plugins import first_line, require_plugin

Transform = Callable[[np.ndarray, np.ndarray, int], Any]
"""From image (H, W, 3) and label (H, W), both uint8 (a label of more than 255 classes uint16), and a seed to such a pair."""
NOT_OF_THE_SAMPLE = ("MSA-DATA-750", "MSA-DATA-751", "MSA-DATA-752")
"""Errors that every sample would have: of the user's code or settings, which no bad sample excuses."""
_SETTING = "data.transforms"
_NORMALIZED = "remove what makes tensors or normalizes (ToTensorV2, Normalize, ToDtype), which msanet does later"


@cache
def open_transforms(names: tuple[str, ...]) -> tuple[Transform, ...]:
    """The transforms of these names, once a process. Raises UserError if one cannot be imported or made."""
    return tuple(map(_open, names))


def apply_transforms(
    names: tuple[str, ...],
    image_HWC: np.ndarray,
    label_HW: np.ndarray,
    num_classes: int,
    rng: np.random.Generator,
    where: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Call one after the other. where: the sample, for errors.

    Raises:
        UserError: One raises, or returns anything but an image and a label of the same size, type and classes.
    """
    for name, transform in zip(names, open_transforms(names), strict=True):
        seed = int(rng.integers(2**31))
        try:
            with _seeded(seed):
                result = transform(image_HWC.copy(), label_HW.copy(), seed)
        except UserError:
            raise
        except Exception as error:  # whatever a user's code does
            raise UserError(
                "MSA-DATA-750",
                f"{_SETTING} names '{name}', which raised {type(error).__name__} for '{where}': {first_line(error)}; fix it, or "
                "remove it",
                setting=_SETTING,
            ) from error
        image_HWC, label_HW = _checked(result, name, label_HW.shape, num_classes)
    return image_HWC, label_HW


def _checked(result: Any, name: str, shape: tuple[int, ...], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    if not (isinstance(result, tuple | list) and len(result) == 2):
        raise _bad_result(name, f"a {type(result).__name__}", "a pair (image, label)", "return one")
    image, label = result
    size = "x".join(map(str, shape))
    is_image = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == (*shape, 3)
    if not is_image:
        fix = "leave random crops to data.crop" if getattr(image, "dtype", None) == np.uint8 else _NORMALIZED
        raise _bad_result(name, f"an image of {_described(image)}", f"uint8 of {size}x3, as it was given", fix)
    if not (isinstance(label, np.ndarray) and label.dtype.kind in "iu" and label.shape == shape):
        raise _bad_result(name, f"a label of {_described(label)}", f"integers of {size}, as it was given", "fix it")
    ignored = ignore_index(num_classes)
    wrong = np.setdiff1d(np.unique(label), [*range(num_classes), ignored])
    if len(wrong):
        expected = f"0 to {num_classes - 1}, or {ignored} for ignored pixels"
        raise _bad_result(name, f"a label with the value(s) {wrong[:8].tolist()}", expected, "fix it")
    return np.ascontiguousarray(image), np.ascontiguousarray(label.astype(label_dtype(num_classes)))


def _bad_result(name: str, found: str, expected: str, fix: str) -> UserError:
    text = f"{_SETTING} names '{name}', which returned {found}, expected {expected}; {fix}"
    return UserError("MSA-DATA-751", text, setting=_SETTING)


def _described(value: Any) -> str:
    kind, shape = getattr(value, "dtype", type(value).__name__), getattr(value, "shape", None)
    return f"{kind}".removeprefix("torch.") + (f" {'x'.join(map(str, shape))}" if shape is not None else "")


def _open(name: str) -> Transform:
    found = require_plugin(name, _SETTING)
    try:
        transform: Any = found() if inspect.isclass(found) else found
        modules = {base.__module__ for base in type(transform).__mro__}
        for library, adapt in _ADAPTERS.items():
            if any(f"{module}.".startswith(f"{library}.") for module in modules):
                return adapt(transform)
    except Exception as error:  # whatever a user's code does
        raise UserError(
            "MSA-DATA-750",
            f"{_SETTING} names '{name}', which raised {type(error).__name__} when it was constructed: {first_line(error)}; "
            "fix it, or name an object of a file of your own",
            setting=_SETTING,
        ) from error
    if "torchvision.transforms.transforms" in modules:
        raise UserError(
            "MSA-DATA-751",
            f"{_SETTING} names '{name}', a transform of torchvision's first API, which would change the image without its label; "
            "use the one of torchvision.transforms.v2",
            setting=_SETTING,
        )
    return lambda image_HWC, label_HW, seed: transform(image_HWC, label_HW, np.random.default_rng(seed))


def _albumentations(transform: Any) -> Transform:
    import albumentations

    is_pipeline = isinstance(transform, albumentations.BaseCompose)
    pipeline = transform if is_pipeline else albumentations.Compose([transform])

    def call(image_HWC: np.ndarray, label_HW: np.ndarray, seed: int) -> Any:
        pipeline.set_random_seed(seed)
        result = pipeline(image=image_HWC, mask=label_HW, masks=[np.ones_like(label_HW)])
        return result["image"], _ignored_outside(result["mask"], result["masks"][0], label_HW)

    return call


def _torchvision(transform: Any) -> Transform:
    from torchvision import tv_tensors

    def call(image_HWC: np.ndarray, label_HW: np.ndarray, seed: int) -> Any:
        image = tv_tensors.Image(torch.from_numpy(image_HWC).permute(2, 0, 1))
        # torch flips no uint16
        label_HW = label_HW if label_HW.dtype == np.uint8 else label_HW.astype(np.int32)
        masks = [tv_tensors.Mask(torch.from_numpy(mask)[None]) for mask in (label_HW, np.ones_like(label_HW))]
        image, label, inside = transform(image, *masks)
        return image.permute(1, 2, 0).numpy(), _ignored_outside(label[0].numpy(), inside[0].numpy(), label_HW)

    return call


def _kornia(transform: Any) -> Transform:
    from kornia.augmentation import AugmentationSequential

    keys: list[Any] = ["input", "mask"]
    is_sequence = isinstance(transform, AugmentationSequential)
    sequence: Any = transform if is_sequence else AugmentationSequential(transform, data_keys=keys)

    def call(image_HWC: np.ndarray, label_HW: np.ndarray, seed: int) -> Any:
        image = torch.from_numpy(image_HWC).permute(2, 0, 1)[None].float() / 255
        masks = torch.from_numpy(np.stack([label_HW, np.ones_like(label_HW)]))[None].float()
        image, masks = sequence(image, masks, data_keys=keys)
        label, inside = masks[0].numpy()
        if (label != np.rint(label)).any():
            raise ValueError(
                "its mask is interpolated, which mixes ids of classes; give it resample=NEAREST for the mask"
            )
        pixels = (image[0] * 255).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(1, 2, 0).numpy(), _ignored_outside(label.astype(np.int64), inside, label_HW)

    return call


_ADAPTERS: dict[str, Callable[[Any], Transform]] = {
    "albumentations": _albumentations,
    "torchvision.transforms.v2": _torchvision,
    "kornia": _kornia,
}
"""By the module of the transform's class, or of one that it is derived from."""


def _ignored_outside(label_HW: np.ndarray, inside_HW: np.ndarray, given_HW: np.ndarray) -> np.ndarray:
    """given_HW: the label before the transform."""
    return np.where(inside_HW == 1, label_HW, ignored_value(given_HW.dtype))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generators of Python, NumPy, PyTorch on the CPU and OpenCV, for code that draws from them; all but OpenCV's
    are restored.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds the devices too
    cv2.setRNGSeed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
