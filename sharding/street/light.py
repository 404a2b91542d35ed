"""The weather and the hour: sun, sky colours, fog."""

from dataclasses import dataclass

import numpy as np

from sharding.street.geometry import Floats, Rgb, Rng
from sharding.street.palette import chance


@dataclass(frozen=True)
class Light:
    """Unit vector (3,) to the sun, its and the sky's strength, colour gains (3,), fog per metre, sky colours, clouds.

    The sky colours are RGB from 0 to 255, `clouds` is a share of the sky; the gains `tint` and `shade_tint` are those
    of sunlit and of shaded places.
    """

    sun: Floats
    direct: float
    ambient: float
    tint: Floats
    shade_tint: Floats
    fog: float
    zenith: Floats
    horizon: Floats
    clouds: float

    def shade(self, normal: Rgb) -> float:
        """Brightness of a face with this unit normal, where open ground has 1."""
        lit = self.ambient + self.direct * max(0.0, float(np.dot(self.sun, normal)))
        return lit / (self.ambient + self.direct * float(self.sun[1]))


def random_light(rng: Rng) -> Light:
    """Sunny, overcast, low sun, fog or dusk, each with its usual share."""
    kind = int(rng.choice(5, p=[0.34, 0.3, 0.14, 0.12, 0.1]))
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.1)
    zenith, horizon, direct, ambient, fog, clouds = (
        ((70, 122, 196), (186, 208, 228), 0.7, 0.48, 0.0012, rng.uniform(0, 0.6)),
        ((176, 184, 192), (222, 224, 224), 0.06, 0.9, 0.002, rng.uniform(0.3, 1)),
        ((96, 116, 160), (244, 200, 150), 0.62, 0.48, 0.0025, rng.uniform(0.2, 0.7)),
        ((186, 192, 196), (214, 218, 220), 0.02, 0.95, rng.uniform(0.006, 0.016), 0.2),
        ((92, 104, 124), (150, 160, 172), 0.1, 0.62, 0.003, rng.uniform(0.5, 1)),
    )[kind]
    if kind == 2:
        height = rng.uniform(0.3, 0.5)
    sun = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), -abs(np.cos(azimuth)) * np.cos(height)])
    if chance(rng, 0.3):
        sun[2] *= -1
    warm = {0: 0.03, 2: 0.13}.get(kind, -0.01) + rng.normal(0, 0.025)
    tint = np.array([1 + warm, 1 + rng.normal(0, 0.01), 1 - warm])
    jitter = rng.normal(0, 4, 3)
    above, far = np.array(zenith) + jitter, np.array(horizon) + jitter
    return Light(sun, direct, ambient, tint, tint * (0.92, 0.98, 1.1), fog, above, far, clouds)
