"""The tables of the report: metrics by class, by category, and of the worst images."""

from collections.abc import Mapping, Sequence
from typing import Any

from msanet.report.curves import number
from msanet.report.formats import JsonObject, css_color, css_length, grouped, interval, percent
from msanet.report.palette import RGB

_MOST_ROWS, _SHOWN_OF_MORE = 255, 100
_OPTIONAL = {
    "accuracy": "accuracy",
    "precision": "precision",
    "dice": "Dice",
    "boundary_iou": "boundary IoU",
    "boundary_f1": "boundary F1",
}
_NAMED = {
    "categories": "IoU by category",
    "class_instances": "Instance-weighted IoU by class",
    "category_instances": "Instance-weighted IoU by category",
}


def most_frequent(classes: Mapping[str, JsonObject]) -> dict[str, JsonObject]:
    """All classes; of more than 255 the 100 with the most labeled pixels, in their order. classes: scores by name."""
    if len(classes) <= _MOST_ROWS:
        return dict(classes)
    frequent = sorted(classes, key=lambda name: -(number(classes[name].get("support")) or 0.0))[:_SHOWN_OF_MORE]
    kept = {*frequent}
    return {name: row for name, row in classes.items() if name in kept}


def class_columns(evaluation: JsonObject) -> dict[str, str]:
    """{key: heading} of the columns in addition to IoU and pixels: accuracy, and those with any value."""
    rows = (evaluation.get("classes") or {}).values()
    return {
        key: heading
        for key, heading in _OPTIONAL.items()
        if key == "accuracy" or any(number(row.get(key)) is not None for row in rows)
    }


def class_rows(evaluation: JsonObject, classes: Sequence[str], palette: Sequence[RGB]) -> list[dict[str, Any]]:
    """One row per class: values as text, those of `class_columns` under `others`, and CSS lengths.

    whisker: (left, width) of the IoU's interval, None if it has no width.
    """
    scores: Mapping[str, JsonObject] = evaluation.get("classes") or {}
    colors = dict(zip(classes, map(css_color, palette), strict=True))
    total = sum(number(score.get("support")) or 0.0 for score in scores.values())
    return [
        {
            "name": name,
            "color": colors.get(name, "transparent"),
            "iou": percent(score.get("iou")),
            "bar": css_length(score.get("iou")),
            "interval": interval(score.get("iou_interval")),
            "whisker": _whisker(score.get("iou_interval")),
            "others": [percent(score.get(key)) for key in class_columns(evaluation)],
            "support": grouped(score.get("support")),
            "share": percent((number(score.get("support")) or 0.0) / total) if total > 0 else "n/a",
        }
        for name, score in most_frequent(scores).items()
    ]


def class_means(evaluation: JsonObject) -> list[tuple[str, str]]:
    """(what, value) of means over classes without a tile, and of the pixels that were predicted as void."""
    boundary = evaluation.get("boundary") or {}
    found = (
        ("mean Dice", evaluation.get("mean_dice")),
        ("mean boundary IoU", boundary.get("mean_iou")),
        ("mean boundary F1", boundary.get("mean_f1")),
    )
    each = ((f"mean IoU of {name}", row.get("mean_iou")) for name, row in (evaluation.get("datasets") or {}).items())
    means = [(label, percent(value, 2)) for label, value in (*found, *each) if number(value) is not None]
    void = number(evaluation.get("predicted_void"))
    return [*means, ("pixels predicted as void", grouped(void))] if void else means


def named_tables(evaluation: JsonObject) -> list[dict[str, Any]]:
    """Tables of the Cityscapes protocol: title, mean, and rows of (name, value, CSS length)."""
    found = [(title, evaluation.get(key) or {}) for key, title in _NAMED.items()]
    return [
        {
            "title": title,
            "mean": percent(scores.get("mean"), 2),
            "rows": [(name, percent(value), css_length(value)) for name, value in scores["values"].items()],
        }
        for title, scores in found
        if scores.get("values")
    ]


def _whisker(bounds: Any) -> tuple[str, str] | None:
    if not interval(bounds):
        return None
    low, high = (min(max(float(bound), 0.0), 1.0) for bound in bounds)
    return (css_length(low), css_length(high - low)) if low < high else None
