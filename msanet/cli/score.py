"""`msanet score`: label maps that any program predicted against the truth, with all figures of an evaluation."""

import argparse
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from msanet.cli.parser import Parser, at_least, new_parser, parse
from msanet.cli.score_count import ScoringJob, count_all
from msanet.cli.score_files import Matches, find_predictions, match
from msanet.cli.score_problems import DOUBLED, MISSING, Problem, refuse
from msanet.cli.score_truth import DEFAULT_SPLIT, FolderTruth, ShardTruth, Truth, find_images, find_truth, shard_truth
from msanet.cli.score_values import VALUES, Files, candidates, choose, forced
from msanet.config import EvaluationConfig
from msanet.data.manifest import MANIFEST_NAME, Manifest
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.datasets import CITYSCAPES, DATASETS, VOC, DatasetSpec, id_dtype, ignore_index, ignored_value, label_dtype
from msanet.errors import UserError
from msanet.evaluation.cost import Cost, peak_memory
from msanet.evaluation.folder_scores import collect_maps
from msanet.evaluation.per_image_counts import require_countable
from msanet.evaluation.protocols import Protocol, compute_scores
from msanet.evaluation.result import EvaluatedImage, EvaluationResult, require_writable, write_evaluation
from msanet.evaluation.run_report import score_table, write_run_report
from sharding.notes import log_notes
from sharding.readers import folder
from sharding.readers.folder import classes_of, spec_of
from sharding.tree import FolderTree

logger = logging.getLogger(__name__)

_DETAILS = f"""\
Predictions are PNGs of one value a pixel (train ids, or the dataset's own ids) or of colors, in any folders below DIR. Names
of Cityscapes match by city, sequence and frame, others by path or name without ending. With --out it writes
evaluation-<split>.json, evaluation-<split>.npz (for msanet compare, worst and rescore) and report.html.

The truth is a folder of label maps, or shards (a folder or address with {MANIFEST_NAME}). Classes are those of the shards, of
--classes, of --protocol, or of the layout of Cityscapes or VOC."""
_LEAST_MAPS = 50
_PROTOCOL_SPECS: dict[str, DatasetSpec] = {"official-cityscapes": CITYSCAPES, "official-voc": VOC}

Classes = tuple[folder.Classes, Path] | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parse(parser(), argv)
    result, spec = score(args)
    print(score_table(result))
    if args.out:
        metrics = write_evaluation(args.out, result)
        report = write_run_report(args.out, spec.palette, result)
        print(f"written to {metrics} and {report}")
    return 0


def score(args: argparse.Namespace) -> tuple[EvaluationResult, DatasetSpec]:
    """Find, read and count all label maps. Raises UserError, before anything is written, if one cannot be scored."""
    started = time.perf_counter()
    truth, spec, classes = _open_truth(args)
    require_countable(spec.num_classes)
    # its classes are checked before the work
    compute_scores(np.zeros((spec.num_classes, spec.num_classes + 1), np.int64), spec.classes, args.protocol)
    files = find_predictions(args.predictions)
    matches = match(truth.keys, truth.stems(), files.names)
    if not matches.found:
        refuse(_unmatched(truth, matches), len(truth.keys))
    with _output_folder(args.out):
        job = _job(args, truth, spec, classes, files, matches)
        counted, problems, notes = count_all(job, args.workers or _default_workers(len(matches.found)))
        refuse([*_unmatched(truth, matches), *problems], len(truth.keys))
        log_notes(notes)
        settings = EvaluationConfig()
        result = collect_maps(
            counted,
            spec.name,
            _digest(truth, spec),
            truth.split,
            spec.classes,
            args.protocol,
            partial(_shown, job),
            settings.panels if args.out else 0,
            settings.worst if args.out else 0,
        )
        result.to_json()  # raises where the protocol does not allow what was predicted
    return replace(result, cost=Cost(time.perf_counter() - started, peak_memory(torch.device("cpu")))), spec


def _shown(job: ScoringJob, number: int, is_worst: bool) -> EvaluatedImage:
    """What the report shows of an image."""
    truth_HW, path = job.truth.label(number), job.predictions[number]
    prediction_HW = job.reader.train_ids(job.reader.read(path), str(path))
    void = label_dtype(job.num_classes).type(ignore_index(job.num_classes))
    prediction_HW = np.where(prediction_HW < job.num_classes, prediction_HW, void)
    image_HWC = None
    with suppress(UserError, OSError):  # only a picture
        image_HWC = job.truth.image(number)
    if image_HWC is not None and image_HWC.shape[:2] != truth_HW.shape:
        image_HWC = None
    return EvaluatedImage(number, job.truth.keys[number], image_HWC, truth_HW, prediction_HW, is_worst)


def _default_workers(num_images: int) -> int:
    return max(1, min(len(os.sched_getaffinity(0)), num_images // _LEAST_MAPS))


def _open_truth(args: argparse.Namespace) -> tuple[Truth, DatasetSpec, Classes]:
    """The truth, its dataset, and the classes file, if the classes are from one."""
    location = str(args.truth)
    if "://" in location or (Path(location) / MANIFEST_NAME).is_file():
        for option, value in (
            ("--classes", args.classes),
            ("--truth-values", args.truth_values),
            ("--images", args.images),
        ):
            if value not in (None, "auto"):
                raise UserError(
                    "MSA-SCORE-008",
                    f"{option} is given with shards, which have this in them; remove it",
                    setting=option,
                )
        storage = open_storage(location)
        manifest = read_manifest(storage)
        truth = shard_truth(ShardSource(storage, args.split or DEFAULT_SPLIT, manifest))
        return truth, _spec_of_shards(manifest), None
    found = find_truth(Path(location), args.split)
    spec, classes = _spec_of_folder(args, found)
    readers = candidates(spec, classes, found.files)
    if args.truth_values != "auto":
        reader = forced(args.truth_values, readers)
    elif found.kind in readers or classes:
        reader = readers[found.kind if found.kind in readers else "ids"]
    else:
        reader = choose(readers, found.files, "--truth-values")
    found = replace(found, reader=reader)
    return (find_images(args.images, found) if args.images else found), spec, classes


def _spec_of_shards(manifest: Manifest) -> DatasetSpec:
    known = DATASETS.get(manifest.name)
    if known and known.classes == manifest.classes:
        return known
    ids = {id: train_id for train_id, id in enumerate(manifest.ids)}
    void = ignored_value(id_dtype(manifest.num_classes, ids))
    return DatasetSpec(manifest.name, manifest.classes, manifest.palette, {void: manifest.ignore_index, **ids})


def _spec_of_folder(args: argparse.Namespace, truth: FolderTruth) -> tuple[DatasetSpec, Classes]:
    name = str(args.classes)
    if args.classes and name in DATASETS and not args.classes.is_file():
        return DATASETS[name], None
    if args.classes is None and (spec := _PROTOCOL_SPECS.get(args.protocol) or DATASETS.get(truth.dataset or "")):
        return spec, None
    try:
        classes = classes_of(FolderTree(truth.files.root), args.classes)
    except UserError as error:
        if error.code != "MSA-PACK-207":
            raise
        raise UserError(
            "MSA-SCORE-010",
            f"nothing says what the classes of '{truth.files.root}' are, expected --classes with a file or one of "
            f"{', '.join(DATASETS)}, or --protocol; add it",
            setting="--classes",
        ) from None
    return spec_of(classes[0]), classes


def _job(
    args: argparse.Namespace, truth: Truth, spec: DatasetSpec, classes: Classes, files: Files, matches: Matches
) -> ScoringJob:
    """Decide how predictions are read, and say it."""
    numbers = sorted(matches.found)
    found = Files(files.root, tuple(matches.found[number] for number in numbers))
    readers = candidates(spec, classes, found)
    reader = (
        choose(readers, found, "--values", lambda i: truth.label(numbers[i]))
        if args.values == "auto"
        else forced(args.values, readers)
    )
    with_instances = args.protocol == "official-cityscapes" and truth.has_instances()
    how = "city, sequence and frame" if matches.is_cityscapes else "path or name"
    as_truth = f", the truth as {truth.reader.kind}" if isinstance(truth, FolderTruth) and truth.reader else ""
    logger.info(
        f"{len(numbers)} of {len(truth.keys)} images of '{truth.split}' have a prediction (by {how}); predictions "
        f"{reader.describe(found.path(0))} of {spec.name}{' (--values)' if reader.forced else ''}{as_truth}"
    )
    if matches.extra:
        logger.warning(
            f"{len(matches.extra)} of {len(files.names)} files are of no image, such as '{matches.extra[0]}': ignored"
        )
    if args.protocol == "official-cityscapes" and not with_instances:
        logger.warning("the truth has no map of instances for each image (*_instanceIds.png): there is no iIoU")
    predictions = {number: files.root / path for number, path in matches.found.items()}
    reader = replace(reader, other_vehicles=with_instances)
    return ScoringJob(truth, predictions, reader, spec.num_classes, with_instances, args.boundary)


def _unmatched(truth: Truth, matches: Matches) -> list[Problem]:
    missing = [Problem(MISSING, f"'{truth.keys[number]}'") for number in matches.missing]
    doubled = matches.doubled.items()
    return missing + [Problem(DOUBLED, f"'{truth.keys[number]}': {', '.join(paths)}") for number, paths in doubled]


def _digest(truth: Truth, spec: DatasetSpec) -> str:
    """Of shards their manifest's, as a run has it; of a folder one of its files' names and classes."""
    if isinstance(truth, ShardTruth):
        return truth.source.manifest.digest()
    return hashlib.sha256("\n".join((*spec.classes, "", *truth.keys)).encode()).hexdigest()


@contextmanager
def _output_folder(folder: Path | None) -> Iterator[None]:
    """Make sure that results can be written, now and not after the work; a new folder is removed again on an error."""
    is_new = folder is not None and not folder.exists()
    if folder:
        require_writable(folder)
    try:
        yield
    except BaseException:
        if folder and is_new:
            with suppress(OSError):
                folder.rmdir()
        raise


def parser() -> Parser:
    """The options of the command."""
    example = "score --predictions DIR --truth gtFine/val --protocol official-cityscapes --out SCORES"
    options = new_parser("score", example, _DETAILS)
    options.add_argument(
        "--predictions", type=Path, required=True, metavar="DIR", help="folder of predicted label maps"
    )
    options.add_argument("--truth", required=True, metavar="DIR|SHARDS", help="folder of label maps, or shards")
    options.add_argument("--split", help=f"split of the truth (default: {DEFAULT_SPLIT}, or that of the folder)")
    options.add_argument("--protocol", choices=get_args(Protocol), default="default", help="whose rules")
    classes = f"file with the classes, as msanet pack folder takes it, or one of {', '.join(DATASETS)}"
    options.add_argument("--classes", type=Path, metavar="FILE", help=classes)
    values = "how predictions are meant (default: found out by their values, and logged)"
    options.add_argument("--values", choices=VALUES, default="auto", help=values)
    options.add_argument(
        "--truth-values", choices=VALUES, default="auto", help="the same of the label maps of the truth"
    )
    images = "folder of photos for the report (default: those of the layout of Cityscapes or VOC, or of the shards)"
    options.add_argument("--images", type=Path, metavar="DIR", help=images)
    options.add_argument("--boundary", action="store_true", help="measure boundaries too (Boundary IoU, boundary F1)")
    options.add_argument(
        "--out", type=Path, metavar="DIR", help="write the results here (default: only print the scores)"
    )
    workers = f"processes (default: one per CPU, if each has {_LEAST_MAPS} images: a process takes seconds to start)"
    options.add_argument("--workers", type=at_least(1), help=workers)
    return options
