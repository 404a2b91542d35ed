"""The measures of a street, and what lies flat: terrain, pavement, road, kerbs and markings."""

from dataclasses import dataclass

import numpy as np

from sharding.street.canvas import Canvas
from sharding.street.geometry import FLAT, SIDE, Floats, Rng, disc, level_rect
from sharding.street.palette import chance, pick


@dataclass(frozen=True)
class Street:
    """Metres: kerbs at `left` and `right`, pavement and verge widths per side (-1, 1), where it ends, a crossing."""

    left: float
    right: float
    walk: dict[int, float]
    verge: dict[int, float]
    end: float
    crossing: float
    crossing_width: float
    lane: float

    def kerb(self, side: int) -> float:
        """The x where the road ends."""
        return self.right if side > 0 else self.left

    def front(self, side: int) -> float:
        """The x where buildings begin."""
        return self.kerb(side) + side * (self.walk[side] + self.verge[side])

    def crossed(self, z0: float, z1: float, margin: float = 0.0) -> bool:
        """Whether the side street, widened by `margin`, meets the stretch from z0 to z1 (metres)."""
        return z1 > self.crossing - margin and z0 < self.crossing + self.crossing_width + margin


def random_street(rng: Rng) -> Street:
    """One or two lanes against ours, with or without parking lanes, verges and a side street."""
    lane = rng.uniform(3.0, 3.6)
    return Street(
        left=-lane * (0.5 + int(rng.integers(1, 3))) - (2.1 if chance(rng, 0.5) else 0),
        right=lane * 0.5 + (2.2 if chance(rng, 0.65) else rng.uniform(0.2, 0.8)),
        walk={side: rng.uniform(2.0, 4.2) for side in (-1, 1)},
        verge={side: rng.uniform(1.5, 6.0) if chance(rng, 0.5) else 0.0 for side in (-1, 1)},
        end=rng.uniform(65, 115),
        crossing=rng.uniform(16, 60) if chance(rng, 0.5) else 1e6,
        crossing_width=rng.uniform(6, 9),
        lane=lane,
    )


def draw_ground(canvas: Canvas, street: Street) -> None:
    """Everything that lies flat, with the kerbs and the markings."""
    rng, far = canvas.rng, 900.0
    grass = pick(rng, ((92, 108, 52), (120, 120, 66), (112, 98, 70), (72, 92, 44), (140, 124, 90)))
    grey = np.array([1.0, 1.0, 1.0]) * rng.uniform(78, 138) + rng.normal(0, 2.5, 3)
    stone = pick(rng, ((150, 146, 140), (122, 120, 120), (168, 150, 132), (132, 112, 100), (100, 100, 104)), 10)
    canvas.draw(canvas.surface("terrain", FLAT, 0, "grass"), level_rect(-400, 400, 0.1, far), grass)
    slabs = str(rng.choice(["slabs", "slabs", "cobbles", "asphalt"]))
    for side in (-1, 1):
        kerb, walk = street.kerb(side), street.walk[side]
        # Where houses stand right at the pavement, the ground between and behind them is paved too.
        outer = kerb + side * (walk if street.verge[side] or chance(rng, 0.4) else walk + 14)
        pave = canvas.surface("sidewalk", FLAT, 0.0, slabs)
        canvas.draw(pave, level_rect(min(kerb, outer), max(kerb, outer), 0.1, street.end + 30), stone)
    road = canvas.surface("road", FLAT, 0, "cobbles" if chance(rng, 0.1) else "asphalt")
    canvas.draw(road, level_rect(street.left, street.right, 0.1, far), grey)
    near, wide = street.crossing, street.crossing_width
    if near < street.end:
        canvas.draw(road, level_rect(-300, 300, near, near + wide), grey)
    for side in (-1, 1):
        _kerb(canvas, street, side, stone)
    _patches(canvas, street, road, grey)
    _markings(canvas, street, road)


def _kerb(canvas: Canvas, street: Street, side: int, stone: Floats) -> None:
    """The kerb's face to the road and its top, which are pavement."""
    x = street.kerb(side)
    surface = canvas.surface("sidewalk", SIDE, x)
    shade = canvas.light.shade((-side, 0, 0))
    spans = [(0.1, street.end + 30)]
    if street.crossing < street.end:
        spans = [(0.1, street.crossing), (street.crossing + street.crossing_width, street.end + 30)]
    for z0, z1 in spans:
        wall = np.array([(x, 0, z0), (x, 0, z1), (x, 0.13, z1), (x, 0.13, z0)])
        canvas.draw(surface, wall + np.array((side * 0.02, 0, 0)), stone * 0.85 * shade)
        canvas.draw(surface, level_rect(x, x + side * 0.2, z0, z1, 0.13), stone * 1.15)


def _patches(canvas: Canvas, street: Street, road: int, grey: Floats) -> None:
    """Repairs and covers, so that a road is not one grey."""
    rng = canvas.rng
    for _ in range(int(rng.integers(1, 6))):
        x, z = rng.uniform(street.left, street.right - 1), rng.uniform(4, 40)
        x1 = min(x + rng.uniform(0.6, 2), street.right)
        canvas.draw(road, level_rect(x, x1, z, z + rng.uniform(1, 9)), grey * rng.uniform(0.75, 1.15))
    for _ in range(int(rng.integers(0, 3))):
        cover = disc(rng.uniform(street.left + 1, street.right - 1), rng.uniform(5, 25), 0, 0.34)
        canvas.draw(road, cover[:, [0, 2, 1]], grey * 0.6)


def _markings(canvas: Canvas, street: Street, road: int) -> None:
    """Lane lines, edge lines, a stop line and a zebra crossing; all of them are road."""
    rng = canvas.rng
    white = np.array([1.0, 0.99, 0.95]) * rng.uniform(150, 225)
    if chance(rng, 0.12):
        return
    x = -street.lane / 2
    solid = chance(rng, 0.3)
    while x > street.left + 1:
        for z in np.arange(-1.0 + rng.uniform(0, 6), street.end, 6.0):
            if not street.crossed(z, z + 3, 4.0):
                canvas.draw(road, level_rect(x - 0.07, x + 0.07, z, z + (6 if solid else 3)), white)
        x -= street.lane
    if street.right > street.lane / 2 + 1.5:
        for z in np.arange(rng.uniform(0, 5), street.end, 5.6):
            if not street.crossed(z, z + 1, 4.0):
                canvas.draw(road, level_rect(street.lane / 2 + 0.05, street.lane / 2 + 0.15, z, z + 5.6), white)
    near, far = street.crossing, street.crossing + street.crossing_width
    if near < street.end:
        canvas.draw(road, level_rect(-street.lane / 2, street.right, near - 4.6, near - 4.2), white)
        for z in (near - 3.6, far + 0.6):
            for u in np.arange(street.left + 0.3, street.right - 0.5, 1.0):
                canvas.draw(road, level_rect(u, u + 0.5, z, z + 3), white)
