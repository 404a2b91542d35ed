"""Passenger cars."""

import numpy as np

from sharding.street.body import Body, Pose, box_points
from sharding.street.canvas import Canvas
from sharding.street.geometry import Floats, Rgb
from sharding.street.palette import GLASS, PAINTS, pick

# Profiles of (forward, up) metres from rear to front: rear bottom, rear top, foot and top of the rear window, top and
# foot of the windscreen, nose, bottom.
CARS = {
    "hatch": (
        (-2.0, 0.3),
        (-2.05, 0.62),
        (-1.95, 0.95),
        (-1.5, 1.44),
        (0.25, 1.5),
        (1.05, 0.98),
        (1.9, 0.78),
        (2.0, 0.3),
    ),
    "sedan": (
        (-2.3, 0.3),
        (-2.32, 0.92),
        (-1.7, 0.98),
        (-1.05, 1.38),
        (0.2, 1.42),
        (1.1, 0.94),
        (2.2, 0.76),
        (2.3, 0.3),
    ),
    "estate": (
        (-2.3, 0.3),
        (-2.36, 0.6),
        (-2.3, 0.95),
        (-2.0, 1.42),
        (0.3, 1.48),
        (1.15, 0.95),
        (2.2, 0.77),
        (2.3, 0.3),
    ),
    "suv": (
        (-2.25, 0.36),
        (-2.3, 0.75),
        (-2.2, 1.08),
        (-1.95, 1.66),
        (0.3, 1.7),
        (1.0, 1.12),
        (2.1, 0.95),
        (2.2, 0.36),
    ),
    "van": ((-2.4, 0.34), (-2.45, 0.8), (-2.4, 1.1), (-2.3, 1.95), (0.9, 1.98), (1.75, 1.1), (2.3, 0.92), (2.4, 0.34)),
}


def draw_car(canvas: Canvas, x: float, z: float, heading: float) -> None:
    """A passenger car with its middle at (x, z); a heading of 0 is away from the camera, in radians."""
    rng = canvas.rng
    body = Body(canvas, Pose(x, z, heading), "car")
    profile = np.array(CARS[str(rng.choice(list(CARS)))]) * rng.uniform(0.94, 1.06)
    paint, glass, dark = pick(rng, PAINTS, 8), pick(rng, GLASS, 8), np.array((22, 22, 24))
    half = rng.uniform(0.84, 0.92)
    belt = profile[5, 1]
    widths = np.where(profile[:, 1] > belt + 0.2, half * 0.78, half)
    ends = profile[0, 0], profile[-1, 0]
    body.shadow(box_points(*ends, 0.0, 0.9, half))
    body.shadow(box_points(profile[3, 0], profile[4, 0], 0.5, profile[3, 1], half * 0.8))
    axles = [ends[0] * 0.6, ends[1] * 0.62]
    under = np.array([(ends[0] + 0.15, 0.15), (ends[0] + 0.15, 0.4), (ends[1] - 0.15, 0.4), (ends[1] - 0.15, 0.15)])
    body.sweep(under, np.full(4, half * 0.95), [dark * 0.5] * 3)
    body.tyres(axles, half * 0.97, 0.32)
    body.sweep(profile, widths, [paint, paint, glass, paint * 1.05, glass * 1.15, paint, paint])
    _car_sides(body, profile, half, (paint, glass, dark))
    body.wheels(axles, half + 0.005, 0.32)
    _car_ends(body, profile, half, glass, dark)


def _car_sides(body: Body, profile: Floats, half: float, colours: tuple[Floats, Floats, Floats]) -> None:
    """Both sides, of which one is seen, in the colours of paint, glass and dark parts."""
    paint, glass, dark = colours
    lower = np.concatenate([profile[:3], profile[5:]])
    cabin, top = profile[2:6], profile[3:5]

    def glaze(polygon: Floats, rgb: Rgb) -> None:
        # The cabin leans inwards.
        body.side(polygon, half * np.interp(polygon[:, 1], (profile[5, 1], top[0, 1]), (0.99, 0.78)), rgb)

    glaze(cabin, paint)
    centre = cabin.mean(0)
    window = centre + (cabin - centre) * (0.9, 0.78)
    glaze(window, glass * 0.85)
    if body.fine:
        shine = np.array([window[0] * 0.4 + window[1] * 0.6, window[1], window[2], window[3] * 0.4 + window[2] * 0.6])
        glaze(shine, glass * 1.35)
        for share in (0.42, 0.78):
            u = top[0, 0] + (top[1, 0] - top[0, 0]) * share
            pillar = np.array(
                [(u - 0.05, cabin[0, 1]), (u - 0.05, top[0, 1]), (u + 0.05, top[0, 1]), (u + 0.05, cabin[0, 1])]
            )
            glaze(pillar, paint * 0.75)
    body.side(lower, half, paint)
    low = lower * (0.985, 1)
    body.side(np.stack([low[0], low[0] + (0, 0.22), low[-1] + (0, 0.22), low[-1]]), half, paint * 0.72)
    body.side(np.stack([low[0], low[0] + (0, 0.08), low[-1] + (0, 0.08), low[-1]]), half, dark)
    if not body.fine:
        return
    for u in (-0.85, 0.05, 0.95):
        seam = np.array([(u, 0.4), (u, profile[5, 1] - 0.05), (u + 0.025, profile[5, 1] - 0.05), (u + 0.025, 0.4)])
        body.side(seam, half, paint * 0.5)
    for u in (-0.55, 0.35):
        body.side(np.array([(u, 0.78), (u, 0.82), (u + 0.2, 0.82), (u + 0.2, 0.78)]), half, paint * 0.55)


def _car_ends(body: Body, profile: Floats, half: float, glass: Floats, dark: Floats) -> None:
    """Lamps, plates, bumpers and windows of the rear and the front."""
    rng = body.canvas.rng
    braking = rng.uniform(0.7, 1.3)
    lamp, beam = np.array((150, 22, 24)) * braking, np.array((226, 226, 214))
    rear, nose = (profile[0], profile[2]), (profile[7], profile[6])
    low, high = (0.52, 0.8) if profile[1, 1] < 0.85 else (0.55, 0.85)
    body.panel(*rear, half, (-1, 1, 0.0, 0.2), dark * 1.6)
    for sign in (-1, 1):
        body.panel(*rear, half, (sign * 0.66, sign * 0.97, low, high), lamp)
    body.panel(*rear, half, (-0.3, 0.3, 0.32, 0.5), (214, 212, 204))
    body.panel(profile[2], profile[3], half * 0.84, (-0.8, 0.8, 0.12, 0.88), glass * 0.8)
    if body.fine:
        body.panel(profile[2], profile[3], half * 0.8, (-0.85, 0.85, 0.6, 0.88), glass * 1.2)
    # The front runs downwards in the profile, so its details turn their back; swapping the ends turns them round.
    front = nose[1], nose[0]
    body.panel(*front, half, (-1, 1, 0.82, 1.0), dark * 1.5)
    body.panel(*front, half, (-0.5, 0.5, 0.12, 0.42), dark)
    body.panel(*front, half, (-0.62, 0.62, 0.56, 0.78), dark * 1.3)
    body.panel(*front, half, (-0.3, 0.3, 0.46, 0.62), (214, 212, 204))
    for sign in (-1, 1):
        body.panel(*front, half, (sign * 0.58, sign * 0.97, 0.08, 0.36), beam)
    body.panel(profile[4], profile[5], half * 0.84, (-0.9, 0.9, 0.08, 0.94), glass * 0.9)
    body.panel(profile[4], profile[5], half * 0.84, (-0.85, 0.85, 0.1, 0.4), glass * 1.3)
