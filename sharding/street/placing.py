"""Where things stand on the street: which to paint, and at what distance."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from sharding.street.buildings import draw_barrier, draw_building
from sharding.street.canvas import Canvas
from sharding.street.figures import draw_bicycle, draw_motorcycle, draw_person, draw_rider
from sharding.street.ground import Street
from sharding.street.palette import chance
from sharding.street.roadside import draw_bin, draw_bush, draw_lamp, draw_sign, draw_traffic_light, draw_tree
from sharding.street.vehicles import draw_bus, draw_car, draw_truck

Task = tuple[float, Callable[[], object]]
"""A distance in metres and what to paint there; farther tasks go first."""


def place_frontage(canvas: Canvas, street: Street, side: int) -> Iterator[Task]:
    """Buildings of one side, and what stands in the gaps between them."""
    rng = canvas.rng
    z, built = rng.uniform(-6, 2), rng.uniform(0.4, 1.0) / canvas.rare
    while z < street.end:
        length = rng.uniform(9, 22)
        if street.crossed(z, z + length, 1.5):
            if z + 6 < street.crossing - 1.5:
                length = street.crossing - 1.5 - z
            else:
                z = street.crossing + street.crossing_width + rng.uniform(1.5, 3)
                continue
        x = street.front(side) + side * rng.uniform(0, 0.6)
        if chance(rng, built):
            yield z + length, partial(draw_building, canvas, x, side, z, z + length)
        else:
            yield from _gap(canvas, x, side, z, z + length)
        z += length + (rng.uniform(1.5, 4) if chance(rng, 0.2) else 0)


def _gap(canvas: Canvas, x: float, side: int, z0: float, z1: float) -> Iterator[Task]:
    """A garden: trees and bushes, mostly behind a wall, a fence or a hedge."""
    rng = canvas.rng
    for _ in range(int(rng.integers(1, 4))):
        z = rng.uniform(max(z0, 5) + 1, max(z1, 8))
        yield z + 1.5, partial(draw_tree, canvas, x + side * rng.uniform(3.0, 9.0), z)
    border = str(rng.choice(["wall", "fence", "hedge", "none"], p=[0.33, 0.37, 0.2, 0.1]))
    if border in ("wall", "fence"):
        yield z0, partial(draw_barrier, canvas, border, x, z0, z1)
    if border == "hedge":
        for z in np.arange(max(z0, 4), max(z1, 5), 1.6):
            yield float(z), partial(draw_bush, canvas, x + side * 0.8, float(z), rng.uniform(0.8, 1.1))


def place_furniture(canvas: Canvas, street: Street, side: int) -> Iterator[Task]:
    """What stands on the pavement and the verge of one side."""
    rng = canvas.rng
    edge = street.kerb(side) + side * 0.5
    alley, spacing = chance(rng, 0.45), rng.uniform(9, 16)
    for z in np.arange(rng.uniform(6, 14), street.end, spacing):
        if alley and not street.crossed(z, z, 3) and chance(rng, 0.85):
            yield z, partial(draw_tree, canvas, edge + side * 0.3, float(z))
    for z in np.arange(rng.uniform(5, 20), street.end, rng.uniform(16, 28)):
        yield z, partial(draw_lamp, canvas, edge, float(z))
    for z in rng.uniform(5, 45, int(rng.integers(1, 5))):
        yield z, partial(draw_sign, canvas, edge + side * rng.uniform(0, 0.4), float(z))
    if street.crossing < 60 and chance(rng, 0.85):
        z = street.crossing - 4.8 if side > 0 else street.crossing + street.crossing_width + 4
        reach = -rng.uniform(2.5, 4) if side > 0 and chance(rng, 0.6) else 0.0
        yield z, partial(draw_traffic_light, canvas, edge, z, reach)
        if side < 0:
            yield street.crossing - 4.8, partial(draw_traffic_light, canvas, edge, street.crossing - 4.8, 0.0)
    if street.verge[side]:
        for z in rng.uniform(5, 60, int(rng.integers(2, 9))):
            x = street.front(side) - side * rng.uniform(0.5, max(0.6, street.verge[side] - 0.8))
            yield z, partial(draw_bush, canvas, x, float(z), rng.uniform(0.4, 0.9))
    for z in rng.uniform(6, 40, int(rng.integers(0, 2))):
        yield z, partial(draw_bin, canvas, edge + side * 0.3, float(z))


def place_people(canvas: Canvas, street: Street) -> Iterator[Task]:
    """People on the pavements and before the crossing, parked cycles, riders on the road."""
    rng = canvas.rng
    busy = rng.uniform(1, 7)
    for side in (-1, 1):
        for z in 5.5 + 50 * rng.random(int(rng.poisson(busy))) ** 1.5:
            x = street.kerb(side) + side * rng.uniform(0.9, street.walk[side] - 0.3)
            yield z, partial(draw_person, canvas, float(x), float(z))
            if chance(rng, 0.3):
                yield z + 0.1, partial(draw_person, canvas, float(x + rng.uniform(0.5, 0.7)), float(z + 0.1))
        if chance(rng, 0.4 * canvas.rare):
            start, x = rng.uniform(6, 22), street.kerb(side) + side * 0.9
            for z in start + np.arange(int(rng.integers(1, 5))) * 0.7:
                yield z, partial(draw_bicycle, canvas, x, float(z), True)
        if chance(rng, 0.16 * canvas.rare):
            z = rng.uniform(6, 20)
            yield z, partial(draw_motorcycle, canvas, street.kerb(side) + side * 1.1, z)
    if street.crossing < 60:
        for x in rng.uniform(street.left, street.right, int(rng.integers(0, 5))):
            z = street.crossing - rng.uniform(1.2, 3.0)
            yield z, partial(draw_person, canvas, float(x), z)
    for _ in range(int(rng.integers(0, 3) * canvas.rare)):
        side = int(rng.choice([-1, 1]))
        z = rng.uniform(7, 30)
        yield z, partial(draw_rider, canvas, (1.1 if side > 0 else -street.lane) + rng.uniform(-0.2, 0.3), z)


def place_traffic(canvas: Canvas, street: Street) -> tuple[list[Task], list[Task]]:
    """Parked and moving vehicles on the street, and those in side streets; lanes fill from near to far."""
    rng = canvas.rng
    tasks: list[Task] = []
    behind: list[Task] = []
    lanes = [(0.0, 0.0, rng.uniform(0.1, 0.7), 9.0)]
    lanes += [(x, np.pi, rng.uniform(0.1, 0.6), 6.0) for x in np.arange(-street.lane, street.left + 1.2, -street.lane)]
    if street.right > street.lane / 2 + 1.9:
        lanes.append((street.right - 1.05, 0.0, rng.uniform(0.25, 0.95), 3.5))
    if (-street.left / street.lane) % 1 > 0.05:
        lanes.append((street.left + 1.05, np.pi, rng.uniform(0.25, 0.95), 3.5))
    for x, heading, share, first in lanes:
        z = first + rng.uniform(0, 6)
        while z < min(street.end, 80):
            kind, long = draw_car, 4.8
            if chance(rng, 0.1 * canvas.rare) and z > 10:
                kind, long = (draw_bus, 11.5) if chance(rng, 0.45) else (draw_truck, 7.6)
            middle = z + long / 2
            if chance(rng, share) and not street.crossed(z, z + long, 4.5):
                turn = heading + rng.normal(0, 0.015)
                tasks.append((z, partial(kind, canvas, x + rng.uniform(-0.12, 0.12), middle, turn)))
            z += long + rng.uniform(0.8, 3) + (rng.uniform(4, 16) if first > 5 else 0)
    if street.crossing < 60 and chance(rng, 0.6):
        for turn in (np.pi / 2, -np.pi / 2):
            z = street.crossing + street.crossing_width * (0.3 if turn > 0 else 0.72)
            for x in np.arange(-30, 30, 8.0):
                if chance(rng, 0.35):
                    # In the side street houses hide cars; in front of us everything else on the street may.
                    group = tasks if street.left - 3 < x < street.right + 3 else behind
                    group.append((z, partial(draw_car, canvas, x + rng.uniform(-1, 1), z, turn)))
    return tasks, behind
