"""folder.html: the findings about a raw dataset, with pictures and class histograms, in one file without dependencies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msanet.doctor.diagnostics import has_fault
from msanet.doctor.folder_findings import Finding
from msanet.doctor.folder_pictures import thumbnails
from msanet.doctor.folder_samples import SampleCheck
from msanet.files import write_text
from msanet.report.embedding import data_uri
from msanet.report.formats import css_color, css_length, grouped, percent
from msanet.report.page import created, new_environment, style
from msanet.report.palette import UInt8
from sharding.readers.reader import DatasetListing
from sharding.shard import PackingJob

_PICTURED, _PICTURED_IN_ALL = 6, 60
"""Samples of one finding, and of all, that are shown."""


@dataclass(frozen=True)
class _Picture:
    finding: Finding
    sample: SampleCheck
    images: Mapping[str, UInt8]


def write_page(
    path: Path,
    title: str,
    job: PackingJob,
    found: DatasetListing,
    samples: Sequence[SampleCheck],
    histograms: Mapping[str, np.ndarray],
    findings: Sequence[Finding],
) -> None:
    """Write the page, completely or not at all."""
    environment = new_environment(Path(__file__).parent, data_uri=data_uri, grouped=grouped)
    bad = sum(bool(sample.code) for sample in samples)
    levels = [finding.diagnostic.level for finding in findings]
    text = environment.get_template("folder_page.html.j2").render(
        title=title,
        created=created(),
        style=style(),
        total=len(samples),
        bad=bad,
        has_fault=has_fault([finding.diagnostic for finding in findings]),
        counts={level: levels.count(level) for level in ("fault", "warning", "advice")},
        findings=findings,
        charts=[(split, _bars(counts, job)) for split, counts in histograms.items()],
        legend=[(name, css_color(color)) for name, color in zip(job.spec.classes, job.spec.palette, strict=True)],
        pictures=list(_pictures(job, found, findings)),
    )
    write_text(path, text)


def _bars(counts: np.ndarray, job: PackingJob) -> list[dict[str, str]]:
    """A row for each class, and the ignored pixels. Bars are relative to the largest."""
    names = [*job.spec.classes, "ignored"]
    colors = [*map(css_color, job.spec.palette), "var(--muted)"]
    pixels = [*map(int, counts[: job.spec.num_classes]), int(counts[job.spec.ignore_index])]
    largest, total = max(1, *pixels), max(1, sum(pixels))
    return [
        {
            "name": name,
            "color": color,
            "bar": css_length(count / largest),
            "share": percent(count / total, 2),
            "pixels": grouped(count),
        }
        for name, color, count in zip(names, colors, pixels, strict=True)
    ]


def _pictures(job: PackingJob, found: DatasetListing, findings: Sequence[Finding]) -> Iterator[_Picture]:
    shown = 0
    for finding in findings:
        for sample in finding.samples[:_PICTURED]:
            if shown < _PICTURED_IN_ALL:
                shown += 1
                yield _Picture(finding, sample, thumbnails(job, found.splits[sample.split][sample.number]))
