"""The measures of a street."""

from dataclasses import dataclass

from sharding.street.geometry import Rng
from sharding.street.palette import chance


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
