"""Materials, and the seamless noise that their textures are sampled from."""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from sharding.street.geometry import Floats


class Material(NamedTuple):
    """Amplitude of fine and of coarse texture, metres per texture tile, metres of a brick or slab (0: none)."""

    fine: float
    coarse: float
    tile: float
    wide: float
    tall: float


MATERIALS = {
    "plain": Material(0.02, 0.03, 3.0, 0, 0),
    "asphalt": Material(0.13, 0.07, 2.2, 0, 0),
    "slabs": Material(0.10, 0.10, 2.5, 0.6, 0.6),
    "cobbles": Material(0.14, 0.10, 1.5, 0.22, 0.16),
    "brick": Material(0.12, 0.10, 2.0, 0.44, 0.16),
    "plaster": Material(0.06, 0.07, 3.5, 0, 0),
    "leaves": Material(0.30, 0.10, 1.6, 0, 0),
    "grass": Material(0.28, 0.18, 1.3, 0, 0),
    "sky": Material(0, 0, 1, 0, 0),
}
MATERIAL_INDEX = {name: i for i, name in enumerate(MATERIALS)}


@lru_cache(maxsize=1)
def _noise_tile() -> npt.NDArray[np.float32]:
    """A 512 x 512 tile of noise with mean 0 and deviation 1 that repeats without a seam."""
    rng = np.random.Generator(np.random.Philox(key=7))
    tile = np.zeros((512, 512), np.float32)
    for octave in range(2, 10):
        side = 2**octave
        coarse = np.pad(rng.standard_normal((side, side)).astype(np.float32), 2, mode="wrap")
        scale = 512 // side
        fine = cv2.resize(coarse, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        tile += fine[2 * scale : 2 * scale + 512, 2 * scale : 2 * scale + 512] * 0.9**octave
    return np.asarray((tile - np.float32(tile.mean())) / np.float32(tile.std()), np.float32)


def sample_noise(a_HW: Floats, b_HW: Floats) -> npt.NDArray[np.float32]:
    """The noise tile at (a, b), each (H, W) in tiles, as (H, W)."""
    a = (a_HW - np.floor(a_HW)) * np.float32(512)
    b = (b_HW - np.floor(b_HW)) * np.float32(512)
    wrap = cv2.BORDER_WRAP
    noise = cv2.remap(_noise_tile(), a.astype(np.float32), b.astype(np.float32), cv2.INTER_LINEAR, borderMode=wrap)
    return np.asarray(noise, np.float32)
