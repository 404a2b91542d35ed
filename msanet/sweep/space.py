"""The search space of a sweep, and the parameters of a trial: {setting: its value as JSON text, as a command line takes it}."""

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

from msanet.errors import UserError
from msanet.sweep.settings import Axis

TrialParams = dict[str, str]
_RANDOM_SAMPLES = 32
_MAX_GRID_POINTS = 1000


def to_yaml(value: Any) -> str:
    """A value as JSON, which is YAML too."""
    return json.dumps(value, default=str)


def display(text: str) -> str:
    """A parameter's value for people: strings without quotes."""
    return str(json.loads(text)) if text.startswith('"') else text


def display_short(text: str) -> str:
    """The same, with numbers of four digits."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return f"{value:.4g}" if isinstance(value, float) else display(text)


def check_conditions(space: Mapping[str, Axis], base_settings: Mapping[str, str]) -> None:
    """Raise UserError unless each `when` names a setting above it in the space, or one of the run."""
    above: set[str] = set()
    for key, axis in space.items():
        for other in axis.when:
            if other not in above and (other in space or other not in base_settings):
                expected = "expected a setting of the run or one above it in the space"
                message = f"space.{key} depends on '{other}', {expected}; fix its `when`"
                raise UserError("MSA-SWEEP-009", message, setting=f"space.{key}")
        above.add(key)


def active_params(space: Mapping[str, Axis], sampled: TrialParams, base_settings: Mapping[str, str]) -> TrialParams:
    """Those of the sampled parameters whose conditions are met, in the order of the space. base_settings: the run's own."""
    params: TrialParams = {}
    for key, axis in space.items():
        if key in sampled and _conditions_met(axis, _settings_at(space, params, base_settings)):
            params[key] = sampled[key]
    return params


def _settings_at(space: Mapping[str, Axis], params: TrialParams, base_settings: Mapping[str, str]) -> Mapping[str, str]:
    return {**{key: text for key, text in base_settings.items() if key not in space}, **params}


def _conditions_met(axis: Axis, settings: Mapping[str, str]) -> bool:
    for key, wanted in axis.when.items():
        options = wanted if isinstance(wanted, list) else [wanted]
        if settings.get(key) not in [to_yaml(option) for option in options]:
            return False
    return True


def grid_points(space: Mapping[str, Axis], base_settings: Mapping[str, str]) -> list[TrialParams]:
    """All combinations of the grid's values, each once; an axis whose condition fails multiplies nothing. Raises UserError."""
    grids = {key: axis for key, axis in space.items() if axis.grid}
    if not grids:
        return []
    sampled: set[str] = space.keys() - grids.keys()
    points: list[TrialParams] = [{}]
    for key, axis in grids.items():
        depends_on_sample = bool(sampled & axis.when.keys())
        longer: list[TrialParams] = []
        for point in points:
            is_set = depends_on_sample or _conditions_met(axis, _settings_at(space, point, base_settings))
            longer += [{**point, key: to_yaml(value)} for value in axis.options] if is_set else [point]
        points = longer
        if len(points) > _MAX_GRID_POINTS:
            message = f"the grid has more than {_MAX_GRID_POINTS} points; remove some of its values"
            raise UserError("MSA-SWEEP-010", message, setting=f"space.{key}")
    return points


def params_to_check(space: Mapping[str, Axis], base_settings: Mapping[str, str], seed: int) -> Iterator[TrialParams]:
    """Parameters by which a space is checked before anything starts.

    The grid, every listed value, both ends of ranges, and random ones of two kinds: of listed values and ends, and as trials
    may sample them.
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
            yield active_params(space, {**first, **wanted, key: text}, base_settings)
    for point in grid_points(space, base_settings):
        yield active_params(space, {**first, **point}, base_settings)
    rng = random.Random(seed)
    for _ in range(_RANDOM_SAMPLES):
        yield active_params(space, {key: rng.choice(texts) for key, texts in corners.items()}, base_settings)
        sampled = {key: to_yaml(_sample_value(axis, rng)) for key, axis in space.items()}
        yield active_params(space, sampled, base_settings)


def _sample_value(axis: Axis, rng: random.Random) -> Any:
    if axis.integer:
        return rng.randint(*axis.integer)
    return rng.uniform(*axis.range) if axis.range else rng.choice(axis.options)


def ray_search_space(space: Mapping[str, Axis], grid: list[TrialParams]) -> dict[str, Any]:
    """The space as Ray Tune takes it; the points of the grid are under `grid`."""
    from ray import tune

    found: dict[str, Any] = {"grid": tune.grid_search(grid)} if grid else {}
    return found | {key: ray_domain(axis) for key, axis in space.items() if not axis.grid}


def ray_domain(axis: Axis) -> Any:
    """What Ray samples from: numbers for a range, JSON texts for a list."""
    from ray import tune

    if axis.uniform:
        return tune.uniform(*axis.uniform)
    if axis.log_uniform:
        return tune.loguniform(*axis.log_uniform)
    if axis.integer:
        return tune.randint(axis.integer[0], axis.integer[1] + 1)
    return tune.choice([to_yaml(value) for value in axis.options])


def params_from_ray(config: Mapping[str, Any]) -> TrialParams:
    """The parameters in what Ray has sampled from `ray_search_space`."""
    others = {key: value for key, value in config.items() if key != "grid"}
    texts = {key: value if isinstance(value, str) else to_yaml(value) for key, value in others.items()}
    return {**config.get("grid", {}), **texts}
