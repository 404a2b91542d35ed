"""One scene from seed to arrays: the order of the story."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharding.street.backdrop import draw_own_car, draw_sky, draw_skyline
from sharding.street.canvas import Canvas
from sharding.street.finish import expose
from sharding.street.ground import draw_ground, random_street
from sharding.street.light import random_light
from sharding.street.placing import place_frontage, place_furniture, place_people, place_traffic


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) uint8 RGB with its label ids (H, W) uint8 and instance ids (H, W) uint16."""

    image_HWC: npt.NDArray[np.uint8]
    label_HW: npt.NDArray[np.uint8]
    instance_HW: npt.NDArray[np.uint16]


def render(seed: int, index: int, size: tuple[int, int], rare: float = 1.0) -> Scene:
    """Scene `index` of the series `seed`, of `size` (height, width) in pixels; depends on nothing else.

    rare: How many times as often as usual there are walls, fences, cycles, riders, buses and trucks.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    canvas = Canvas(rng, size, random_light(rng), rare)
    street = random_street(rng)
    draw_sky(canvas)
    draw_ground(canvas, street)
    draw_skyline(canvas, street)
    early = [*place_frontage(canvas, street, -1), *place_frontage(canvas, street, 1)]
    late = [*place_furniture(canvas, street, -1), *place_furniture(canvas, street, 1)]
    vehicles, crossing = place_traffic(canvas, street)
    late += [*place_people(canvas, street), *vehicles]
    for group in (early + crossing, late):
        for _, paint in sorted(group, key=lambda task: -task[0]):
            paint()
    draw_own_car(canvas)
    return Scene(expose(canvas), canvas.per_pixel("label", np.uint8), canvas.per_pixel("instance", np.uint16))
