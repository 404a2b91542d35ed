"""Colours as RGB from 0 to 255, and chance."""

from collections.abc import Sequence

import numpy as np

from sharding.street.geometry import Floats, Rng

FACADES = (
    (196, 180, 152), (150, 82, 62), (168, 160, 150), (212, 204, 190), (120, 110, 102), (186, 140, 100),
    (140, 150, 156), (96, 100, 108), (206, 186, 120), (158, 172, 150), (180, 120, 110), (90, 70, 60),
)  # fmt: skip
ROOFS = ((120, 66, 50), (80, 76, 78), (96, 60, 52), (60, 62, 70), (110, 100, 92))
PAINTS = (
    (28, 28, 32), (60, 62, 68), (128, 130, 134), (178, 180, 182), (214, 214, 212), (150, 28, 30), (30, 52, 110),
    (60, 92, 130), (44, 70, 54), (150, 130, 96), (92, 58, 44), (196, 160, 50), (110, 116, 112),
)  # fmt: skip
CLOTHES = (
    (24, 26, 34), (40, 48, 76), (70, 74, 80), (130, 126, 120), (196, 192, 184), (140, 36, 40), (60, 84, 60),
    (170, 130, 80), (90, 60, 50), (60, 100, 140), (190, 150, 60), (110, 60, 100), (220, 220, 220),
)  # fmt: skip
LEAVES = ((52, 70, 28), (78, 96, 36), (104, 116, 48), (40, 56, 30), (128, 124, 52), (88, 84, 40), (60, 84, 56))
SKINS = ((222, 180, 150), (196, 146, 112), (140, 96, 70), (90, 60, 44))
GLASS = ((34, 40, 48), (56, 66, 78), (24, 26, 28), (92, 104, 116))


def pick(rng: Rng, palette: Sequence[Sequence[float]], spread: float = 14.0) -> Floats:
    """A colour (3,) of the palette, moved a little in brightness and in each channel."""
    base = np.asarray(palette[int(rng.integers(len(palette)))], float)
    return np.clip(base * rng.uniform(0.8, 1.18) + rng.normal(0, spread / 2, 3), 6, 245)


def chance(rng: Rng, share: float) -> bool:
    """True with probability `share`."""
    return bool(rng.random() < share)
