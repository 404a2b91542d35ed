"""Numbers as the report writes them."""

from collections.abc import Mapping
from typing import Any

from msanet.report.curves import number
from msanet.report.palette import RGB

JsonObject = Mapping[str, Any]
"""The content of an evaluation's file, of a part of it, or a line of metrics.jsonl."""


def percent(value: Any, digits: int = 1) -> str:
    """A share from 0 to 1 as a percentage, 'n/a' where there is no finite number."""
    share = number(value)
    return "n/a" if share is None else f"{share * 100:.{digits}f}%"


def interval(bounds: Any, digits: int = 1) -> str:
    """Two shares as '12.3 to 45.6%', empty where they are not two finite numbers."""
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return ""
    low, high = map(number, bounds)
    return "" if low is None or high is None else f"{low * 100:.{digits}f} to {high * 100:.{digits}f}%"


def grouped(value: Any) -> str:
    """A count with thousands separators, 'n/a' where there is no finite number."""
    count = number(value)
    return "n/a" if count is None else f"{count:,.0f}"


def css_color(color: RGB) -> str:
    """`rgb(1,2,3)`."""
    return "rgb({:d},{:d},{:d})".format(*map(int, color))


def css_length(share: Any) -> str:
    """A share as a CSS percentage, kept within 0 to 100, 0 where there is no finite number."""
    return f"{100 * min(max(number(share) or 0.0, 0.0), 1.0):.1f}%"
