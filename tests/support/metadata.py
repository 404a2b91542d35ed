"""The metadata of a network that no run has trained, as a run would write it."""

from collections.abc import Sequence
from typing import Any

from msanet.datasets import CAMVID, DatasetSpec
from msanet.models.io import ModelMetadata

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 58.0, 62.0)


def metadata(
    name: str, spec: DatasetSpec = CAMVID, classes: Sequence[str] = (), ids: Sequence[int] = (), **options: Any
) -> ModelMetadata:
    """A network for the classes of `spec`, or for others in its first colors; ids: 0, 1, 2 ... unless told."""
    names = tuple(classes or spec.classes)
    return ModelMetadata(
        name=name,
        options=options,
        dataset=spec.name,
        dataset_digest="0" * 64,
        classes=names,
        palette=spec.palette[: len(names)],
        ids=tuple(ids or range(len(names))),
        mean=MEAN,
        std=STD,
        resize=None,
        step=12,
    )
