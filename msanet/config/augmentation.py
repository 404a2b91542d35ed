"""Augmentation among the settings of `data`: which they are, and the presets of `data.augment`."""

from typing import Any

PRESETS: dict[str, dict[str, float]] = {
    "none": {},
    "light": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02, "gamma": 0.1},
    "strong": {
        "rotation": 10.0, "shear": 5.0, "perspective": 0.2,
        "brightness": 0.3, "contrast": 0.3, "saturation": 0.4, "hue": 0.05, "gamma": 0.2,
        "grayscale": 0.05, "blur": 0.2, "noise": 0.2, "jpeg": 0.2, "cutout": 0.2,
    },
}  # fmt: skip
"""What `data.augment` sets, unless the setting is given."""
WARPS = ("rotation", "shear", "perspective")
PHOTOMETRIC = ("gamma", "hue", "grayscale", "blur", "noise", "jpeg", "cutout")
"""In the order in which they are applied."""
MIXES = ("cutmix", "classmix", "copy_paste")
TRAINING_ONLY = (
    "augment", "crop", "resize", "random_scale", "cat_max_ratio", "rare_class_crops", "flip_horizontal", "flip_vertical", *WARPS,
    "brightness", "contrast", "saturation", *PHOTOMETRIC, *MIXES, "transforms",
)  # fmt: skip
"""Settings that have no effect on an evaluation, which reads images as they are."""


def is_any_set(data: Any, names: tuple[str, ...]) -> bool:
    """Whether one of these settings of a DataConfig is not 0."""
    return any(getattr(data, name) for name in names)


def with_preset(values: Any) -> Any:
    """The settings of `data` as given, over those of the preset that they name."""
    name = values.get("augment") if isinstance(values, dict) else None
    preset = PRESETS.get(name) if isinstance(name, str) else None
    return {**preset, **values} if preset else values
