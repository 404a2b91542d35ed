"""What a training says of itself on the console."""

from collections.abc import Mapping


def metrics_text(metrics: Mapping[str, float]) -> str:
    """`loss 0.4123, lr 0.0098, 41.2 images/s` of a line of metrics.jsonl."""
    return f"loss {metrics['loss']:.4g}, lr {metrics['lr']:.3g}, {metrics['images_per_second']:.3g} images/s"
