"""How commands print their results."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from msanet.evaluation.statistics import Interval


def print_result(result: str | dict[str, Any]) -> None:
    """Print a text as it is, and nested values as JSON, in which numbers that are not finite are null."""
    print(result if isinstance(result, str) else json.dumps(_plain(result), indent=1, allow_nan=False))


def bounds(interval: Interval) -> list[float]:
    """[low, high], as JSON has it."""
    return [interval.low, interval.high]


def percent(value: float) -> str:
    """A fraction for people; - where it is undefined."""
    return "-" if math.isnan(value) else f"{value:.2%}"


def signed(value: float) -> str:
    """A difference in percentage points."""
    return "-" if math.isnan(value) else f"{100 * value:+.2f}"


def interval_text(bounds: list[float], form: Callable[[float], str] = percent) -> str:
    """`low to high`."""
    return f"{form(bounds[0])} to {form(bounds[1])}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
