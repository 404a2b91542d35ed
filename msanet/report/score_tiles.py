"""The headline metrics of the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from msanet.report.curves import number
from msanet.report.formats import JsonObject, grouped, interval, percent


@dataclass(frozen=True)
class Tile:
    """One headline metric. alarm: its value shows that something went wrong."""

    label: str
    value: str
    detail: str = ""
    alarm: bool = False


def tiles(evaluation: JsonObject | None, metrics: Sequence[JsonObject]) -> list[Tile]:
    """The headline metrics: of the evaluation, or else the latest validation during training."""
    if evaluation is None:
        found = [line for line in metrics if number(line.get("val/mean_iou")) is not None]
        if not found:
            return []
        detail = f"validation at step {grouped(found[-1].get('step'))}"
        return [
            Tile("Mean IoU so far", percent(found[-1]["val/mean_iou"], 2), detail),
            Tile("Pixel accuracy so far", percent(found[-1].get("val/pixel_accuracy"), 2), detail),
        ]
    result = [
        Tile("Mean IoU", percent(evaluation.get("mean_iou"), 2), _mean_iou_detail(evaluation)),
        Tile("Pixel accuracy", percent(evaluation.get("pixel_accuracy"), 2), "every pixel counts alike"),
        Tile("Mean accuracy", percent(evaluation.get("mean_accuracy"), 2), "every class counts alike"),
    ]
    if number(evaluation.get("frequency_weighted_iou")) is not None:
        weighted = percent(evaluation["frequency_weighted_iou"], 2)
        result.append(Tile("Weighted IoU", weighted, "classes count by their pixels"))
    return [*result, _images_tile(evaluation)]


def facts(evaluation: JsonObject | None, metrics: Sequence[JsonObject]) -> list[tuple[str, str]]:
    """(what, value): how long was trained, how fast, and what it took, from the lines of metrics.jsonl and `cost`."""
    result: list[tuple[str, str]] = []
    for key, label, digits in (("step", "steps", 0), ("epoch", "epochs", 1), ("samples", "samples", 0)):
        if values := _column(metrics, key):
            result.append((label, f"{max(values):,.{digits}f}"))
    if losses := _column(metrics, "loss"):
        result.append(("last loss", f"{losses[-1]:.4g}"))
    if speeds := _column(metrics, "images_per_second"):
        result.append(("trained images per second (median)", f"{median(speeds):.4g}"))
    if peaks := _column(metrics, "peak_memory_gb"):
        result.append(("peak memory of training", f"{max(peaks):.3g} GB"))
    cost = (evaluation or {}).get("cost") or {}
    seconds, images = number(cost.get("seconds")), number((evaluation or {}).get("num_images"))
    if seconds and images:
        result.append(("evaluated images per second", f"{images / seconds:.4g}"))
    if memory := number(cost.get("peak_memory")):
        result.append(("peak memory at the evaluation", f"{memory / 1e9:.3g} GB"))
    return result


def _column(metrics: Sequence[JsonObject], key: str) -> list[float]:
    return [value for line in metrics if (value := number(line.get(key))) is not None]


def _mean_iou_detail(evaluation: JsonObject) -> str:
    """The interval, and the score of always answering the most frequent class."""
    bounds = interval(evaluation.get("mean_iou_interval"), 2)
    parts = [f"95% interval {bounds}"] if bounds else []
    if baseline := evaluation.get("constant_baseline"):
        parts.append(f"{percent(baseline.get('mean_iou'), 2)} for always answering \u201c{baseline.get('class')}\u201d")
    return "; ".join(parts)


def _images_tile(evaluation: JsonObject) -> Tile:
    """How complete the evaluation is."""
    counted, missing, twice = (number(evaluation.get(f"num_{key}")) for key in ("images", "missing", "duplicate"))
    if counted is None:
        return Tile("Images counted", "n/a")
    value = f"{counted:,.0f} of {counted + (missing or 0):,.0f}"
    detail = f"{grouped(missing)} missing, {grouped(twice)} twice"
    return Tile("Images counted", value, detail, alarm=bool(missing) or bool(twice))
