"""Points of a sweep's space. A point is {setting: its value as JSON text}, as a command line takes it."""

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

from msanet.errors import UserError
from msanet.sweep.settings import Axis

Point = dict[str, str]
_RANDOM_POINTS = 32
_MOST_GRID_POINTS = 1000


def to_yaml(value: Any) -> str:
    """A value as JSON, which is YAML too."""
    return json.dumps(value, default=str)


def shown(text: str) -> str:
    """A value of a point for people: words without quotes."""
    return str(json.loads(text)) if text.startswith('"') else text


def short(text: str) -> str:
    """The same with numbers of four digits."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return f"{value:.4g}" if isinstance(value, float) else shown(text)


def check_conditions(space: Mapping[str, Axis], fixed: Mapping[str, str]) -> None:
    """Each `when` names a setting above it, or one of the run. Raises UserError."""
    above: set[str] = set()
    for key, axis in space.items():
        for other in axis.when:
            if other not in above and (other in space or other not in fixed):
                raise UserError(
                    f"space.{key} depends on '{other}', which neither stands above it in the space nor is a setting of the run; "
                    "correct its when"
                )
        above.add(key)


def active(space: Mapping[str, Axis], drawn: Point, fixed: Mapping[str, str]) -> Point:
    """What of a drawn point is set, in the space's order: that whose conditions hold. fixed: the run's own settings."""
    point: Point = {}
    for key, axis in space.items():
        if key in drawn and _holds(axis, {**{k: v for k, v in fixed.items() if k not in space}, **point}):
            point[key] = drawn[key]
    return point


def _holds(axis: Axis, settings: Mapping[str, str]) -> bool:
    """Whether all conditions of an axis are met."""
    for key, wanted in axis.when.items():
        options = wanted if isinstance(wanted, list) else [wanted]
        if settings.get(key) not in [to_yaml(option) for option in options]:
            return False
    return True


def grid_points(space: Mapping[str, Axis], fixed: Mapping[str, str]) -> list[Point]:
    """All combinations of the grid's values, each once; what is not set in one is not multiplied. Empty without a grid."""
    grids = {key: axis for key, axis in space.items() if axis.grid}
    if not grids:
        return []
    drawn: set[str] = space.keys() - grids.keys()
    points: list[Point] = [{}]
    for key, axis in grids.items():
        depends_on_draw = bool(drawn & axis.when.keys())
        points = [
            longer
            for point in points
            for longer in (
                [{**point, key: to_yaml(value)} for value in axis.options]
                if depends_on_draw or _holds(axis, {**{k: v for k, v in fixed.items() if k not in space}, **point})
                else [point]
            )
        ]
        if len(points) > _MOST_GRID_POINTS:
            raise UserError(f"the grid has more than {_MOST_GRID_POINTS} points; take some values out of it")
    return points


def sample_points(space: Mapping[str, Axis], fixed: Mapping[str, str], seed: int) -> Iterator[Point]:
    """Points by which settings are checked: the grid, every listed value, both ends of ranges, and random ones of both kinds:
    of listed values and ends, and as trials may draw them.
    """
    corners = {key: [to_yaml(value) for value in axis.options or axis.range or ()] for key, axis in space.items()}
    first = {key: texts[0] for key, texts in corners.items()}
    for key, texts in corners.items():
        wanted = {
            other: to_yaml(value[0] if isinstance(value, list) else value)
            for other, value in space[key].when.items()
            if other in space
        }
        for text in texts:
            yield active(space, {**first, **wanted, key: text}, fixed)
    for point in grid_points(space, fixed):
        yield active(space, {**first, **point}, fixed)
    rng = random.Random(seed)
    for _ in range(_RANDOM_POINTS):
        yield active(space, {key: rng.choice(texts) for key, texts in corners.items()}, fixed)
        yield active(space, {key: to_yaml(_anywhere(axis, rng)) for key, axis in space.items()}, fixed)


def _anywhere(axis: Axis, rng: random.Random) -> Any:
    if axis.integer:
        return rng.randint(*axis.integer)
    return rng.uniform(*axis.range) if axis.range else rng.choice(axis.options)


def search_space(space: Mapping[str, Axis], points: list[Point]) -> dict[str, Any]:
    """The space as Ray Tune takes it; the grid's points are under `grid`."""
    from ray import tune

    found: dict[str, Any] = {"grid": tune.grid_search(points)} if points else {}
    return found | {key: domain(axis) for key, axis in space.items() if not axis.grid}


def domain(axis: Axis) -> Any:
    """What Ray draws from: numbers for a range, texts for a list."""
    from ray import tune

    if axis.uniform:
        return tune.uniform(*axis.uniform)
    if axis.log_uniform:
        return tune.loguniform(*axis.log_uniform)
    if axis.integer:
        return tune.randint(axis.integer[0], axis.integer[1] + 1)
    return tune.choice([to_yaml(value) for value in axis.options])


def drawn_point(config: Mapping[str, Any]) -> Point:
    """The point in what Ray has drawn by `search_space`."""
    others = {
        key: value if isinstance(value, str) else to_yaml(value) for key, value in config.items() if key != "grid"
    }
    return {**config.get("grid", {}), **others}
