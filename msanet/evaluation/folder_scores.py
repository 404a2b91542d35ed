"""Scores of label maps that somebody else's program predicted: out of the counts of each the same result as of an evaluation.

Nothing here reads a file: `msanet score` does, in any number of processes, whose integers come together in any order.
"""

from collections.abc import Callable, Sequence

import numpy as np

from msanet.evaluation.boundary import BoundaryCounts
from msanet.evaluation.instances import no_instances
from msanet.evaluation.label_map_counts import MapCounts
from msanet.evaluation.per_image_counts import PerImageCounts, collect_counts
from msanet.evaluation.protocols import Protocol
from msanet.evaluation.result import EvaluatedImage, EvaluationResult, spread_over_split
from msanet.evaluation.statistics import worst

Show = Callable[[int, bool], EvaluatedImage]
"""(number of an image, whether it is one of the worst) -> what the report shows of it."""


def collect_maps(
    maps: Sequence[MapCounts],
    dataset: str,
    digest: str,
    split: str,
    classes: tuple[str, ...],
    protocol: Protocol,
    show: Show,
    panels: int,
    num_worst: int,
) -> EvaluationResult:
    """The result of an evaluation out of the counts of all maps, in any order.

    Args:
        maps: One of each image of the split.
        dataset: Its name.
        digest: By which `compare` knows that two results are of the same files of the truth.
        split: Its name.
        classes: By train id.
        protocol: Whose rules.
        show: Reads an image again for the report.
        panels: How many images, spread over the split, the report shows.
        num_worst: How many of the worst it shows besides.
    """
    instances = None
    if all(one.instances is not None for one in maps):
        instances = np.concatenate([no_instances(), *(one.instances for one in maps if one.instances is not None)])
    counts = collect_counts(dataset, digest, split, classes, [one.image for one in maps], instances)
    boundary = BoundaryCounts(len(classes))
    for one in maps:
        boundary.counts_7K += 0 if one.boundary is None else one.boundary
    has_boundary = all(one.boundary is not None for one in maps)
    return EvaluationResult(
        counts,
        np.ones(len(counts), dtype=np.int64),
        world_size=1,
        protocol=protocol,
        boundary=boundary.scores() if has_boundary else None,
        shown_images=_shown(counts, show, panels, num_worst),
    )


def _shown(counts: PerImageCounts, show: Show, panels: int, num_worst: int) -> tuple[EvaluatedImage, ...]:
    """Those spread over the split, then the worst ones, worst first, as the evaluator chooses them."""
    spread = spread_over_split(len(counts), panels)
    place = {key: number for number, key in enumerate(counts.keys)}
    found = [place[image.key] for image in worst(counts, num_worst)]
    return (*(show(number, False) for number in sorted(spread)), *(show(number, True) for number in found))
