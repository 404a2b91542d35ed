"""`msanet doctor --folder`: what packing would make of a raw dataset, all of it named at once and nothing written."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from msanet.data.image.codec import CODECS
from msanet.doctor.diagnostics import Diagnostic
from msanet.doctor.folder_findings import Finding, find_all
from msanet.doctor.folder_page import write_page
from msanet.doctor.folder_samples import Item, SampleCheck, check_samples
from msanet.errors import UserError
from msanet.evaluation.result import require_writable
from msanet.logs import ProgressBar
from sharding.notes import collected_refusals
from sharding.plan import check_split
from sharding.readers import Reader, find_source, open_source
from sharding.readers.contents import left_out
from sharding.readers.mask_reader import reader_of
from sharding.readers.reader import DatasetListing
from sharding.shard import PackingJob
from sharding.tree import Tree
from sharding.unpacked import list_folder
from sharding.workers import group_items, run_groups
from sharding.writer import manifest_header

PAGE = "folder.html"


@dataclass(frozen=True)
class FolderCase:
    """A folder (or zip file) to be checked.

    classes: classes file, for layouts that need one. reader: of its layout; None: whichever knows it. splits: beside the usual
    ones. out: folder for the page; None: none. workers: processes.
    """

    folder: Path
    classes: Path | None = None
    reader: Reader | None = None
    splits: Sequence[str] = ()
    out: Path | None = None
    workers: int = 1


def check_folder(case: FolderCase) -> list[Diagnostic]:
    """All diagnostics; writes the page where `case.out` says. Raises UserError where no reader knows the folder."""
    found, tree, listed, refusals = list_case(case)
    if case.out:
        require_writable(case.out)
    job = PackingJob(tree, found.spec, found.decode or reader_of(found.spec), CODECS[0], Path())
    samples, histograms = check_all(job, found, case.workers)
    findings = [*listed, *find_all(samples, histograms, found.spec, list(found.splits), refusals)]
    if case.out:
        write_page(case.out / PAGE, str(case.folder), job, found, samples, histograms, findings)
    return [finding.whole for finding in findings]


def require_alone(others: Sequence[str]) -> None:
    """Raise UserError where --folder is given together with what a training takes. others: such options and settings."""
    if others:
        raise UserError(
            "MSA-PACK-770",
            f"--folder is given with '{others[0]}', expected either a raw dataset or the data and settings of a training; "
            "remove one of them",
            setting="--folder",
        )


def require_folder(options: Sequence[str]) -> None:
    """Raise UserError where options of a raw dataset are given without one."""
    if options:
        raise UserError(
            "MSA-PACK-771",
            f"{options[0]} is given without --folder, expected the folder of a raw dataset; add it",
            setting=options[0],
        )


def list_case(case: FolderCase) -> tuple[DatasetListing, Tree, list[Finding], list[UserError]]:
    """The samples, where their files lie, what is found from names alone, and the errors among it. Raises UserError."""
    with _said() as said, collected_refusals() as refusals:
        try:
            reader, tree = (
                (case.reader, open_source(case.reader, [case.folder])) if case.reader else find_source([case.folder])
            )
        except UserError as error:
            raise UserError(error.code, str(error), setting="--folder") from None
        found = list_folder(reader, tree, case.classes, case.splits, "--classes")
        tree = found.tree or tree
        checks: list[Callable[[], object]] = [partial(check_split, *split) for split in found.splits.items()]
        checks.append(partial(manifest_header, found.spec, CODECS[0]))
        for run in checks:
            try:
                run()
            except UserError as error:
                refusals.append(error)
        unused = "" if refusals else left_out(tree, found)  # it would name what the refusals are about
    counts = ", ".join(f"{len(pairs)} of {split}" for split, pairs in found.splits.items())
    total = sum(map(len, found.splits.values()))
    layout = Diagnostic("ok", "layout", f"laid out as {reader.name}, with the samples: {counts}")
    listed = [Finding(layout, "packs them", count=total)]
    listed += [Finding(Diagnostic("fault", "listing", f"{error} [{error.code}]"), "refuses it") for error in refusals]
    for level, text in said:
        listed.append(Finding(Diagnostic("warning" if level >= logging.WARNING else "ok", "listing", text), "goes on"))
    if unused:
        listed.append(
            Finding(Diagnostic("advice", "listing", f"files that belong to no sample: {unused}"), "ignores them")
        )
    return found, tree, listed, refusals


@contextmanager
def _said() -> Iterator[list[tuple[int, str]]]:
    """What readers log in the block, which is then not logged: level and message."""
    said: list[tuple[int, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((record.levelno, record.getMessage()))

    logger, handler = logging.getLogger("sharding"), Keep()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def check_all(job: PackingJob, found: DatasetListing, workers: int) -> tuple[list[SampleCheck], dict[str, np.ndarray]]:
    """What packing makes of each sample, and by split the pixels of each train id; in `workers` processes."""
    items = [Item(split, number, pair) for split, pairs in found.splits.items() for number, pair in enumerate(pairs)]
    samples, histograms = list[SampleCheck](), dict[str, np.ndarray]()
    with ProgressBar(len(items), found.spec.name, unit="samples") as bar:
        for group in run_groups(check_samples, job, group_items(items, lambda _: 1, workers), workers, bar.update):
            samples += group.samples
            for split, counts in group.histograms.items():
                histograms[split] = histograms.get(split, 0) + counts
    return samples, histograms
