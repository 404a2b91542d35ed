"""The counting of `msanet score`: every image once, in any number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msanet.cli.score_problems import UNREADABLE, WRONG_SIZE, WRONG_VALUES, Problem
from msanet.cli.score_truth import Truth
from msanet.cli.score_values import ValueReader
from msanet.errors import UserError
from msanet.evaluation.label_map_counts import MapCounts, count_map
from msanet.logs import ProgressBar
from sharding.notes import Notes, add_notes, take_notes
from sharding.workers import OnSample, group_items, run_groups


@dataclass(frozen=True)
class ScoringJob:
    """What all processes need to count label maps. predictions: {number of an image: path}, by `reader`."""

    truth: Truth
    predictions: dict[int, Path]
    reader: ValueReader
    num_classes: int
    with_instances: bool
    boundary: bool

    def count(self, number: int) -> MapCounts | Problem:
        """Count one image, or say what is wrong with its files."""
        path, key = self.predictions[number], self.truth.keys[number]
        try:
            truth_HW = self.truth.label(number)
            instances_HW = self.truth.instances(number) if self.with_instances else None
        except (UserError, OSError) as error:
            return Problem(UNREADABLE, f"truth of '{key}': {_found(error)}")
        try:
            mask = self.reader.read(path)
        except (UserError, OSError) as error:
            return Problem(UNREADABLE, _found(error))
        if instances_HW is not None and instances_HW.shape != truth_HW.shape:
            return Problem(WRONG_SIZE, f"instance map of '{key}': {_sizes(instances_HW, truth_HW)}")
        if mask.pixels.shape[:2] != truth_HW.shape:
            return Problem(WRONG_SIZE, f"'{path}': {_sizes(mask.pixels, truth_HW)}")
        try:
            prediction_HW = self.reader.train_ids(mask, str(path))
        except UserError as error:
            return Problem(WRONG_VALUES, f"'{path}' read as {self.reader.kind}: {_found(error)}")
        try:
            return count_map(number, key, truth_HW, prediction_HW, self.num_classes, instances_HW, self.boundary)
        except UserError as error:  # ids of instances, or train ids in shards, that there are not
            return Problem(WRONG_VALUES, f"truth of '{key}': {_found(error)}")


def count_maps(job: ScoringJob, numbers: Sequence[int], on_sample: OnSample) -> tuple[list[MapCounts | Problem], Notes]:
    """Count these images, in a process of its own or not. on_sample is called after each."""
    counted = []
    for number in numbers:
        counted.append(job.count(number))
        on_sample()
    return counted, take_notes()


def count_all(job: ScoringJob, workers: int) -> tuple[list[MapCounts], list[Problem], Notes]:
    """Count all images in at most `workers` processes; the result is the same for any number of them."""
    take_notes()
    groups = group_items(sorted(job.predictions), lambda _: 1, workers)
    found: list[MapCounts | Problem] = []
    notes: Notes = {}
    with ProgressBar(len(job.predictions), "score", unit="image") as bar:
        for part, said in run_groups(count_maps, job, groups, workers, bar.update):
            found += part
            add_notes(notes, said)
    problems = [one for one in found if isinstance(one, Problem)]
    return [one for one in found if isinstance(one, MapCounts)], problems, notes


def _found(error: UserError | OSError) -> str:
    """What was found: the first part of a sentence."""
    return str(error).partition(", expected")[0]


def _sizes(found_HW: np.ndarray, truth_HW: np.ndarray) -> str:
    return ", expected ".join(f"{width}x{height}" for height, width in (found_HW.shape[:2], truth_HW.shape))
