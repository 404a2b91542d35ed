"""The canvas as a camera sees it: texture, shadows, fog, lens and sensor."""

import cv2
import numpy as np
import numpy.typing as npt

from sharding.street.canvas import Canvas
from sharding.street.geometry import CAMERA, FLAT, SIDE, SKY, Floats, Rng
from sharding.street.textures import MATERIAL_INDEX, MATERIALS, sample_noise


def _positions(canvas: Canvas, kind_HW: npt.NDArray[np.int8]) -> tuple[Floats, Floats, Floats]:
    """Per pixel: texture coordinates a and b in metres and the depth z, all (H, W) float32; kinds (H, W)."""
    u = ((np.arange(canvas.width) - canvas.cx) / canvas.focal).astype(np.float32)[None]
    v = ((canvas.cy - np.arange(canvas.height)) / canvas.focal).astype(np.float32)[:, None]
    value = canvas.per_pixel("value", np.float32)
    flat, side = kind_HW == FLAT, kind_HW == SIDE
    ground = (value - np.float32(CAMERA)) / np.minimum(v, np.float32(-1e-4))
    across = value / np.where(np.abs(u) < 1e-4, np.float32(1e-4), u)
    z = np.clip(np.where(flat, ground, np.where(side, across, value)), 0.3, 1e4)
    return np.where(side, z, u * z), np.where(flat, z, np.float32(CAMERA) + v * z), z


def _texture(
    canvas: Canvas, flat_HW: npt.NDArray[np.bool_], a: Floats, b: Floats, z: Floats
) -> npt.NDArray[np.float32]:
    """Brightness gain (H, W) by the materials, fading where a pixel covers more than the texture's grain."""
    looks = np.array(list(MATERIALS.values()), np.float32)
    material = canvas.per_pixel("material", np.intp)
    fine, coarse, tile = (looks[:, i][material] for i in range(3))
    shift = canvas.rng.uniform(0, 1, 4).astype(np.float32)
    slant = np.where(flat_HW, z / np.float32(CAMERA), 1).astype(np.float32)
    grain = z / np.float32(canvas.focal) * slant
    fade = 1 / (1 + (grain / (0.06 * tile)) ** 2)
    gain = 1 + fine * fade * sample_noise(a / tile + shift[0], b / tile + shift[1])
    gain += coarse * sample_noise(a / (9 * tile) + shift[2], b / (9 * tile) + shift[3])
    for name in ("slabs", "cobbles", "brick"):
        wide, tall = MATERIALS[name].wide, MATERIALS[name].tall
        at = np.nonzero(material == MATERIAL_INDEX[name])
        row, near = np.floor(b[at] / tall), np.clip(1.2 - grain[at] / (0.25 * tall), 0, 1)
        column = a[at] / wide + 0.5 * (row % 2)
        joint = ((b[at] / tall - row) < 0.1) | ((column - np.floor(column)) < 0.1 * tall / wide)
        tone = np.sin(np.floor(column) * 12.9898 + row * 78.233) * 0.08
        gain[at] *= 1 + near * (tone - 0.22 * joint).astype(np.float32)
    return np.asarray(gain, np.float32)


def expose(canvas: Canvas) -> npt.NDArray[np.uint8]:
    """The finished picture (H, W, 3) in RGB: texture, shadows, fog, lens and sensor."""
    rng, light = canvas.rng, canvas.light
    kind = canvas.per_pixel("kind", np.int8)
    flat, sky = kind == FLAT, kind == SKY
    a, b, z = _positions(canvas, kind)
    picture = canvas.colour.astype(np.float32)
    gain = _texture(canvas, flat, a, b, z)
    soft = max(0.5, canvas.width / 900)
    contact = cv2.GaussianBlur(canvas.contact_HW, (0, 0), soft * 2).astype(np.float32) / 255
    cast = cv2.GaussianBlur(canvas.cast_HW, (0, 0), soft * 0.6).astype(np.float32) / 255 * flat
    share = np.float32(1 - light.ambient / (light.ambient + light.direct * light.sun[1]))
    gain *= 1 - np.float32(0.5) * contact * flat
    sunlit, shaded = (
        light.tint * (1 - share * cast[..., None]),
        (light.shade_tint - light.tint) * (cast * share)[..., None],
    )
    full = (sunlit + shaded).astype(np.float32)
    full[sky] = 1
    picture *= full * gain[..., None]
    clear = np.exp(-z * np.float32(light.fog))
    clear[sky] = 1
    haze = (light.horizon * 0.97).astype(np.float32)
    picture = haze + (picture - haze) * clear[..., None]
    return _sensor(rng, picture)


def _sensor(rng: Rng, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Vignette, blur, exposure and noise of the camera; the picture is (H, W, 3) from 0 to 255."""
    height, width = picture.shape[:2]
    x, y = np.linspace(-1, 1, width, dtype=np.float32)[None], np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    # Automatic exposure, as in a real camera, but not to one and the same mean.
    exposure = np.float32(np.clip(rng.uniform(92, 132) / float(picture.mean()), 0.75, 1.75))
    picture = picture * ((1 - np.float32(0.06) * (x * x + y * y)) * exposure)[..., None]
    blur = float(np.clip(width / 2600, 0.35, 0.8))
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), blur), np.float32)
    # Linear gain with a soft shoulder, so that bright walls keep their texture.
    picture = np.where(picture > 200, 255 - 55 * np.exp(-(picture - 200) / 55), picture)
    picture += rng.standard_normal((height, width, 3), np.float32) * np.float32(rng.uniform(1.0, 4.0))
    return np.asarray(np.clip(picture + 0.5, 0, 255), np.uint8)
