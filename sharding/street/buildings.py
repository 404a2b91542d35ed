"""Buildings with their facades, walls and fences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sharding.street.canvas import Canvas
from sharding.street.geometry import FRONT, NEAR, SIDE, Floats, Rgb, Rng, upright_rects
from sharding.street.palette import CLOTHES, FACADES, PAINTS, ROOFS, chance, pick

Paint = Callable[[Sequence[Sequence[float]] | Floats, Rgb], None]


@dataclass(frozen=True)
class House:
    """The look of one building: wall and trim colours, floor height, window pitch and size in metres."""

    wall: Floats
    trim: Floats
    base: Floats
    glass: Floats
    floor: float
    pitch: float
    window: tuple[float, float]
    floors: int
    shop: bool
    material: str


def random_house(rng: Rng) -> House:
    """Old or modern, with or without shops, of two to six floors."""
    wall = pick(rng, FACADES, 18)
    modern = chance(rng, 0.25)
    window = (rng.uniform(1.6, 2.6), rng.uniform(1.5, 2.0)) if modern else (rng.uniform(0.9, 1.3), rng.uniform(1.4, 2))
    return House(
        wall=wall,
        trim=np.clip(wall * rng.choice([0.65, 1.3]) + rng.uniform(-10, 30), 20, 240),
        base=np.clip(wall * rng.uniform(0.55, 1.0), 20, 235),
        glass=pick(rng, ((40, 46, 54), (64, 76, 90), (30, 32, 34), (110, 124, 136)), 10),
        floor=rng.uniform(2.9, 3.5),
        pitch=window[0] + rng.uniform(0.5, 1.6),
        window=window,
        floors=int(rng.integers(2, 7)),
        shop=chance(rng, 0.45),
        material=str(rng.choice(["brick", "plaster", "plaster", "plaster"])),
    )


def draw_facade(
    canvas: Canvas, house: House, surface: int, origin: Rgb, along: Rgb, length: float, shade: float
) -> None:
    """A wall of `length` metres from `origin` along the unit vector `along`, with windows, doors or shops."""
    rng = canvas.rng
    height = house.floors * house.floor + 0.8

    def paint(boxes: Sequence[Sequence[float]] | Floats, rgb: Rgb) -> None:
        if len(boxes):
            canvas.draw(None, upright_rects(origin, along, np.asarray(boxes, float)), np.asarray(rgb) * shade)

    canvas.draw(surface, upright_rects(origin, along, np.array([(0, length, 0, height)])), house.wall * shade)
    paint([(0, length, 0, house.floor)], house.base)
    columns = max(1, int((length - 0.6) / house.pitch))
    centre = (np.arange(columns) + 0.5) * length / columns
    wide, tall = house.window
    u, floor = (grid.ravel() for grid in np.meshgrid(centre, np.arange(1, house.floors)))
    low = floor * house.floor + (house.floor - tall) * 0.55
    boxes = np.stack([u - wide / 2, u + wide / 2, low, low + tall], -1)
    paint(boxes + np.array((-0.12, 0.12, -0.14, 0.12)), house.trim)
    group = rng.integers(0, 4, len(boxes))
    for tone, gain in enumerate((0.75, 1.0, 1.35, 1.0)):
        paint(boxes[group == tone], house.glass * gain)
    curtains = boxes[group == 3] * (1, 1, 0, 1) + (0, 0, 1, 0) * (boxes[group == 3][:, 3:] - tall * 0.45)
    paint(curtains, (190, 184, 170))
    fine = canvas.pixels(1, max(float(np.asarray(origin)[2]), NEAR)) > 6
    if fine:
        paint(np.c_[u - 0.04, u + 0.04, boxes[:, 2:]], house.trim)
    if house.floors > 1:
        paint([(0, length, house.floor - 0.12, house.floor + 0.12)], house.trim)
    paint([(0, length, height - 0.35, height)], house.trim * 0.9)
    if fine:
        _ground_floor(rng, house, centre, length, paint)


def _ground_floor(rng: Rng, house: House, centre: Floats, length: float, paint: Paint) -> None:
    """Shop windows with a sign board, or doors between windows."""
    if house.shop and length > 5:
        bays = max(1, int(length / 5))
        for i in range(bays):
            u0, u1 = (i + 0.08) * length / bays, (i + 0.92) * length / bays
            paint([(u0, u1, 0.45, 2.5)], house.glass * rng.uniform(0.6, 1.3))
            paint([(u0, u0 + 1.0, 0.05, 2.5)], house.glass * 0.5)
            paint([(u0 - 0.1, u1 + 0.1, 2.5, 3.0)], pick(rng, PAINTS))
            paint([(u0 + 1.2, (u0 + u1) / 2 + 0.4, 0.8, rng.uniform(1.2, 2))], pick(rng, CLOTHES))
        return
    doors = rng.random(len(centre)) < 0.22
    door, window = centre[doors], centre[~doors]
    if len(door):
        paint(np.stack([door - 0.65, door + 0.65, 0 * door, 0 * door + 2.35], -1), house.trim)
        paint(np.stack([door - 0.5, door + 0.5, 0 * door, 0 * door + 2.2], -1), pick(rng, PAINTS) * 0.8)
    if len(window):
        paint(np.stack([window - 0.65, window + 0.65, 0 * window + 0.8, 0 * window + 2.4], -1), house.trim)
        paint(np.stack([window - 0.53, window + 0.53, 0 * window + 0.92, 0 * window + 2.28], -1), house.glass)


def draw_building(canvas: Canvas, x: float, side: int, z0: float, z1: float) -> None:
    """A building whose street front is at `x`; `side` is 1 to the right of the street and -1 to the left."""
    rng, light = canvas.rng, canvas.light
    house, deep = random_house(rng), rng.uniform(9, 14)
    height = house.floors * house.floor + 0.8
    front = canvas.surface("building", FRONT, max(z0, NEAR), house.material)
    street = canvas.surface("building", SIDE, x, house.material)
    corners = [(a, b, c) for a in (x, x + side * deep) for b in (0.0, height) for c in (z0, z1)]
    canvas.cast(np.array(corners), contact=False)
    roof, rise = pick(rng, ROOFS), rng.uniform(1.2, 3.2)
    if chance(rng, 0.65):
        ridge, sill, top = x + side * deep / 2, x - side * 0.25, height + rise
        slope = np.array([(sill, height, z0), (sill, height, z1), (ridge, top, z1), (ridge, top, z0)])
        gable = np.array([(x, height, z0), (ridge, top, z0), (x + side * deep, height, z0)])
        canvas.draw(front, gable, house.wall * light.shade((0, 0, -1)))
        canvas.draw(street, slope, roof * light.shade((-side * 0.6, 0.8, 0)))
        if chance(rng, 0.6):
            z = rng.uniform(z0 + 1, z1 - 1)
            stack = upright_rects((ridge, height + rise * 0.6, z), (1, 0, 0), np.array([(0, 0.8, 0, rise * 0.4 + 1.1)]))
            canvas.draw(front, stack, roof * 0.8)
    if z0 > NEAR:
        start = x if side > 0 else x - deep
        draw_facade(canvas, house, front, (start, 0, z0), (1, 0, 0), deep, light.shade((0, 0, -1)))
    draw_facade(canvas, house, street, (x, 0, z0), (0, 0, 1), z1 - z0, light.shade((-side, 0, 0)))


def draw_barrier(canvas: Canvas, label: str, x: float, z0: float, z1: float) -> None:
    """A wall, or a fence of bars, along the street at `x`."""
    rng, length = canvas.rng, z1 - z0
    side = 1 if x > 0 else -1
    material = str(rng.choice(["brick", "plaster"])) if label == "wall" else "plain"
    surface = canvas.surface(label, SIDE, x, material)
    high, shade = rng.uniform(1.3, 2.6), canvas.light.shade((-side, 0, 0))
    canvas.cast(np.array([(x, y, z) for y in (0, high) for z in (z0, z1)]), contact=False)

    def boxes(values: list[tuple[float, float, float, float]]) -> Floats:
        return upright_rects((x, 0.1, z0), (0, 0, 1), np.array(values, float))

    rgb = pick(rng, FACADES + PAINTS) * shade
    if label == "wall":
        canvas.draw(surface, boxes([(0, length, 0, high)]), rgb)
        canvas.draw(surface, boxes([(0, length, high - 0.15, high)]), rgb * 1.2)
        return
    # Cityscapes counts what is seen between the bars as fence; it shows through here, dulled.
    before = canvas.colour.copy()
    canvas.draw(surface, boxes([(0, length, 0, high)]), rgb * 0.75)
    canvas.colour[:] = cv2.addWeighted(canvas.colour, 0.65, before, 0.35, 0)
    for apart, wide, top in ((0.16, 0.045, high), (2.4, 0.14, high + 0.12)):  # bars, then posts
        canvas.draw(surface, boxes([(float(u), float(u) + wide, 0.0, top) for u in np.arange(0, length, apart)]), rgb)
    canvas.draw(surface, boxes([(0, length, 0.15, 0.24), (0, length, high - 0.2, high - 0.1)]), rgb * 1.1)
