"""Cars, buses and trucks."""

import numpy as np

from sharding.street.body import Body, Pose, box_points, flat_rect
from sharding.street.canvas import Canvas
from sharding.street.geometry import Floats, Rgb
from sharding.street.palette import CLOTHES, FACADES, GLASS, PAINTS, pick

# Profiles from rear to front, metres forward and up: rear bottom, rear top, foot and top of the rear window, top and
# foot of the windscreen, nose, bottom.
CARS = {
    "hatch": ((-2.0, -2.05, -1.95, -1.5, 0.25, 1.05, 1.9, 2.0), (0.3, 0.62, 0.95, 1.44, 1.5, 0.98, 0.78, 0.3)),
    "sedan": ((-2.3, -2.32, -1.7, -1.05, 0.2, 1.1, 2.2, 2.3), (0.3, 0.92, 0.98, 1.38, 1.42, 0.94, 0.76, 0.3)),
    "estate": ((-2.3, -2.36, -2.3, -2.0, 0.3, 1.15, 2.2, 2.3), (0.3, 0.6, 0.95, 1.42, 1.48, 0.95, 0.77, 0.3)),
    "suv": ((-2.25, -2.3, -2.2, -1.95, 0.3, 1.0, 2.1, 2.2), (0.36, 0.75, 1.08, 1.66, 1.7, 1.12, 0.95, 0.36)),
    "van": ((-2.4, -2.45, -2.4, -2.3, 0.9, 1.75, 2.3, 2.4), (0.34, 0.8, 1.1, 1.95, 1.98, 1.1, 0.92, 0.34)),
}


def draw_car(canvas: Canvas, x: float, z: float, heading: float) -> None:
    """A passenger car with its middle at (x, z); a heading of 0 is away from the camera, in radians."""
    rng = canvas.rng
    body = Body(canvas, Pose(x, z, heading), "car")
    profile = np.stack(CARS[str(rng.choice(list(CARS)))], -1) * rng.uniform(0.94, 1.06)
    paint, glass, dark = pick(rng, PAINTS, 8), pick(rng, GLASS, 8), np.array((22, 22, 24))
    half = rng.uniform(0.84, 0.92)
    widths = np.where(profile[:, 1] > profile[5, 1] + 0.2, half * 0.78, half)
    ends = profile[0, 0], profile[-1, 0]
    canvas.cast(body.pose.world(box_points(*ends, 0.0, 0.9, half)))
    canvas.cast(body.pose.world(box_points(profile[3, 0], profile[4, 0], 0.5, profile[3, 1], half * 0.8)))
    axles = [ends[0] * 0.6, ends[1] * 0.62]
    body.sweep(flat_rect(ends[0] + 0.15, ends[1] - 0.15, 0.15, 0.4), np.full(4, half * 0.95), [dark * 0.5] * 3)
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
            glaze(flat_rect(u - 0.05, u + 0.05, cabin[0, 1], top[0, 1]), paint * 0.75)
    body.side(lower, half, paint)
    low = lower * (0.985, 1)
    body.side(np.stack([low[0], low[0] + (0, 0.22), low[-1] + (0, 0.22), low[-1]]), half, paint * 0.72)
    body.side(np.stack([low[0], low[0] + (0, 0.08), low[-1] + (0, 0.08), low[-1]]), half, dark)
    if not body.fine:
        return
    for u in (-0.85, 0.05, 0.95):
        body.side(flat_rect(u, u + 0.025, 0.4, profile[5, 1] - 0.05), half, paint * 0.5)
    for u in (-0.55, 0.35):
        body.side(flat_rect(u, u + 0.2, 0.78, 0.82), half, paint * 0.55)


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


def draw_bus(canvas: Canvas, x: float, z: float, heading: float) -> None:
    """A bus with its middle at (x, z); `heading` in radians as for cars."""
    rng, half, long, high = canvas.rng, 1.25, 5.6, 3.05
    body = Body(canvas, Pose(x, z, heading), "bus")
    paint, glass = pick(rng, PAINTS), pick(rng, GLASS, 8)
    band = pick(rng, PAINTS)
    profile = np.array([(-long, 0.32), (-long, high), (long - 0.15, high), (long, 0.32)])
    canvas.cast(body.pose.world(box_points(-long, long, 0, high, half)))
    body.tyres((-long * 0.55, long * 0.5), half * 0.97, 0.48)
    body.sweep(profile, np.full(4, half), [paint] * 3)
    body.side(profile, half, paint)
    body.side(flat_rect(-long, long, 0.32, 0.75), half, band)
    for u in np.arange(-long + 0.25, long - 1.3, 1.5):
        body.side(flat_rect(u, u + 1.38, 1.3, 2.45), half, glass * rng.uniform(0.8, 1.2))
    for u in (-1.0, 3.9):
        body.side(flat_rect(u, u + 1.2, 0.4, 2.45), half, glass * 0.7)
    body.wheels((-long * 0.55, long * 0.5), half + 0.005, 0.48)
    rear, front = (profile[0], profile[1]), (profile[2], profile[3])
    body.panel(*rear, half, (-0.85, 0.85, 0.48, 0.82), glass)
    body.panel(*front, half, (-0.94, 0.94, 0.2, 0.66), glass)
    body.panel(*front, half, (-0.94, 0.94, 0.2, 0.36), glass * 1.3)
    for face in (rear, front):
        first = 0.03 if face is front else 0.86
        body.panel(*face, half, (-0.7, 0.7, first, first + 0.11), (26, 26, 26))
        body.panel(*face, half, (-0.4, 0.4, first + 0.02, first + 0.09), (230, 160, 50))
    for sign in (-1, 1):
        body.panel(*rear, half, (sign * 0.8, sign * 0.95, 0.14, 0.34), (160, 24, 24))
        body.panel(*front, half, (sign * 0.62, sign * 0.92, 0.8, 0.9), (226, 226, 214))
    body.panel(*front, half, (-1, 1, 0.93, 1), (24, 24, 24))
    body.panel(*rear, half, (-1, 1, 0, 0.08), (24, 24, 24))


def draw_truck(canvas: Canvas, x: float, z: float, heading: float) -> None:
    """A truck of cab and box with its middle at (x, z); `heading` in radians as for cars."""
    rng, half, high = canvas.rng, 1.22, canvas.rng.uniform(2.9, 3.5)
    body = Body(canvas, Pose(x, z, heading), "truck")
    paint, cargo, glass, dark = pick(rng, PAINTS), pick(rng, FACADES), pick(rng, GLASS, 8), np.array((26, 26, 28))
    chassis = flat_rect(-3.6, 3.4, 0.45, 0.95)
    box = flat_rect(-3.7, 1.5, 0.95, high)
    cab = np.array([(1.65, 0.4), (1.65, 2.6), (3.3, 2.6), (3.55, 1.5), (3.6, 0.4)])
    canvas.cast(body.pose.world(box_points(-3.7, 3.6, 0, high, half)))
    body.sweep(chassis, np.full(4, half * 0.8), [dark] * 3)
    body.side(chassis, half * 0.8, dark)
    body.tyres((-2.5, 2.5), half * 0.98, 0.46)
    body.wheels((-2.5, 2.5), half * 0.98, 0.46)

    def draw_box() -> None:
        body.sweep(box, np.full(4, half), [cargo] * 3)
        body.side(box, half, cargo)
        body.side(box * (0.9, 0.25) + (0, 1.3), half, pick(rng, CLOTHES))
        body.panel(box[0], box[1], half, (-0.02, 0.02, 0.02, 0.98), cargo * 0.6)
        body.panel(box[0], box[1], half, (-1, 1, 0, 0.05), dark)
        for sign in (-1, 1):
            body.panel(chassis[0], chassis[1], half * 0.95, (sign * 0.6, sign * 0.9, 0.3, 0.75), (160, 26, 26))

    def draw_cab() -> None:
        body.sweep(cab, np.full(5, half * 0.98), [paint, paint, glass, paint])
        body.side(cab, half * 0.98, paint)
        body.side(np.array([(2.2, 1.5), (2.2, 2.35), (3.2, 2.35), (3.4, 1.5)]), half * 0.98, glass)
        for sign in (-1, 1):
            body.panel(cab[3], cab[4], half, (sign * 0.6, sign * 0.92, 0.62, 0.76), (226, 226, 214))
        body.panel(cab[3], cab[4], half, (-0.6, 0.6, 0.15, 0.55), dark)
        body.wheels((2.5,), half, 0.46)

    for part in (draw_cab, draw_box) if np.cos(heading) > 0 else (draw_box, draw_cab):
        part()
