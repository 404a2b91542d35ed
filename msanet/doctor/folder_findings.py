"""From what packing makes of each sample of a raw dataset to findings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from msanet.data.image.photo import FIRST_OF_SEVERAL, TRANSPARENT, TURNED
from msanet.data.manifest import SplitInfo
from msanet.datasets import DatasetSpec
from msanet.doctor.diagnostics import Diagnostic
from msanet.doctor.folder_copies import find_copies
from msanet.doctor.folder_samples import SampleCheck
from msanet.doctor.labels import label_diagnostics
from msanet.doctor.shards import SampleStatistics
from msanet.errors import UserError
from sharding.bad_samples import allowed_bad
from sharding.notes import Notes, add_notes, described
from sharding.readers import mask_reader
from sharding.readers.mask_file import SCALED
from sharding.shard_check import printable

_NAMED, _CLASSES_SHOWN = 5, 8
_LOST = "MSA-PACK-006"  # sharding.bad_samples.BadSample.is_lost
_CHECKS_OF_CODES = {
    **dict.fromkeys(("MSA-PACK-027", "MSA-PACK-028", "MSA-DATA-017", "MSA-DATA-701"), "damage"),
    **dict.fromkeys(("MSA-DATA-101", "MSA-DATA-102"), "bit depth"),
    **dict.fromkeys(("MSA-DATA-023", "MSA-PACK-102", "MSA-PACK-104"), "values"),
    **dict.fromkeys(("MSA-PACK-035", "MSA-PACK-103", "MSA-PACK-105"), "palettes"),
    "MSA-PACK-024": "sizes",
}
_NOTES = {
    TURNED: ("EXIF", "turns them"),
    TRANSPARENT: ("transparency", "drops the transparency"),
    mask_reader.TRANSPARENT: ("transparency", "drops the transparency"),
    FIRST_OF_SEVERAL: ("frames", "packs the first one"),
    SCALED: ("bit depth", "divides them by 257"),
    mask_reader.BINARY: ("0/255 masks", "reads 255 as the second class"),
    mask_reader.COLORS_DECIDE: ("palettes", "reads the colors"),
    mask_reader.GREY_COLORS: ("palettes", "reads the colors"),
    mask_reader.GREY_IDS: ("palettes", "reads the greys"),
}
"""Note of packing -> (check, what packing does)."""


@dataclass(frozen=True)
class Finding:
    """A diagnostic, what packing does about it, and the samples it is about."""

    diagnostic: Diagnostic
    packing: str = ""
    samples: tuple[SampleCheck, ...] = ()
    count: int = 0

    @property
    def whole(self) -> Diagnostic:
        """The diagnostic, with what packing does unless nothing is wrong."""
        level, text = self.diagnostic.level, self.diagnostic.text
        more = f"; packing {self.packing}" if self.packing and level != "ok" else ""
        return replace(self.diagnostic, text=printable(text + more))


def find_all(
    samples: Sequence[SampleCheck],
    histograms: Mapping[str, np.ndarray],
    spec: DatasetSpec,
    splits: Sequence[str],
    refusals: Sequence[UserError] = (),
) -> Iterator[Finding]:
    """The findings of a dataset, those that packing refuses first. refusals: with which it would end before it reads samples."""
    bad = [sample for sample in samples if sample.code]
    good = [sample for sample in samples if not sample.code]
    yield from refused(bad, len(samples))
    yield packing_result(bad, samples, refusals)
    yield from noted(samples)
    if good:
        yield image_sizes(good)
    for level, text, found in find_copies(good, splits):
        check = "overlap" if len({sample.split for sample in found}) > 1 else "duplicates"
        yield Finding(Diagnostic(level, check, text), "packs all of them", tuple(found), len(found) // 2)
    if good and len(splits) == 1:
        text = f"there is only the split {splits[0]}, expected one for validation too; pack with --random-split val=0.1"
        yield Finding(Diagnostic("advice", "overlap", text))
    yield from class_findings(good, histograms, spec, splits)


def refused(bad: Sequence[SampleCheck], total: int) -> Iterator[Finding]:
    """One finding for each kind of error."""
    for code in sorted({sample.code for sample in bad}):
        found = [sample for sample in bad if sample.code == code]
        what = f"{len(found)} of {total} samples: {found[0].error} [{code}]"
        if others := [f"'{sample.image}'" for sample in found[1 : _NAMED + 1]]:
            what += f"; likewise {', '.join(others)}{' and others' * (len(found) > _NAMED + 1)}"
        packing = "refuses them, also with --skip-bad" if code == _LOST else "refuses them; --skip-bad skips them"
        check = _CHECKS_OF_CODES.get(code, "samples")
        yield Finding(Diagnostic("fault", check, what), packing, tuple(found), len(found))


def packing_result(
    bad: Sequence[SampleCheck], samples: Sequence[SampleCheck], refusals: Sequence[UserError] = ()
) -> Finding:
    """How packing all of it would end."""
    total = len(samples)
    if not bad and not refusals:
        return Finding(Diagnostic("ok", "packing", f"all {total} samples can be packed"), "packs them", count=total)
    empty = sorted({sample.split for sample in samples} - {sample.split for sample in samples if not sample.code})
    if refusals:
        skipping = (
            f"refused with --skip-bad too, before a sample is read: {', '.join(error.code for error in refusals)}"
        )
    elif any(sample.code == _LOST for sample in bad):
        skipping = f"refused with --skip-bad too, since files are there and cannot be read: {_LOST}"
    elif empty:
        skipping = f"refused with --skip-bad too: all samples of split '{empty[0]}' are bad"
    elif len(bad) > allowed_bad(total):
        skipping = (
            f"refused with --skip-bad too, which accepts {int(allowed_bad(total))} unless --max-bad-fraction is given"
        )
    else:
        skipping = f"with --skip-bad the other {total - len(bad)} are packed"
    text = f"{len(bad)} of {total} samples cannot be packed, expected none; fix or replace them ({skipping})"
    return Finding(Diagnostic("fault", "packing", text), count=len(bad))


def noted(samples: Sequence[SampleCheck]) -> Iterator[Finding]:
    """What packing does to files and says."""
    notes: Notes = {}
    for sample in samples:
        add_notes(notes, sample.notes)
    for text, (name, count) in notes.items():
        check, packing = _NOTES.get(text, ("annotations", "goes on"))
        found = tuple(sample for sample in samples if text in sample.notes)
        yield Finding(Diagnostic("advice", check, described(text, name, count)), packing, found, count)


def image_sizes(samples: Sequence[SampleCheck]) -> Finding:
    """The range of sizes and the median one."""
    heights, widths = (sorted(sample.size[axis] for sample in samples) for axis in (0, 1))
    middle = len(samples) // 2
    text = f"images have the median size {widths[middle]}x{heights[middle]}"
    if len({sample.size for sample in samples}) > 1:
        text += f", of {widths[0]} to {widths[-1]} by {heights[0]} to {heights[-1]} pixels"
    return Finding(Diagnostic("ok", "sizes", text), "keeps them", count=len(samples))


def class_findings(
    samples: Sequence[SampleCheck], histograms: Mapping[str, np.ndarray], spec: DatasetSpec, splits: Sequence[str]
) -> Iterator[Finding]:
    """The histogram of each split, and what the doctor of shards says of them."""
    infos = {split: _pixels(histograms[split], spec) for split in splits if split in histograms}
    for split, info in infos.items():
        count = sum(sample.split == split for sample in samples)
        yield Finding(Diagnostic("ok", "classes", f"{split}: {_shares(info, spec)}"), "counts them", count=count)
    train = next((split for split in infos if split.startswith("train")), next(iter(infos), ""))
    if not infos:
        return
    statistics = [
        SampleStatistics(one.key, one.size, (), (), 255, one.image_is_label) for one in samples if one.split == train
    ]
    val = None if train == "val" else infos.get("val")
    for found in label_diagnostics(infos[train], val, spec.classes, statistics):
        text = found.text.replace(" and pack again", "")  # nothing is packed yet
        yield Finding(replace(found, text=text), "packs the labels as they are")


def _pixels(counts: np.ndarray, spec: DatasetSpec) -> SplitInfo:
    """The pixels of a split that has no shards yet."""
    return SplitInfo(
        samples=0,
        shards=(),
        histogram=tuple(map(int, counts[: spec.num_classes])),
        ignored=int(counts[spec.ignore_index]),
    )


def _shares(info: SplitInfo, spec: DatasetSpec) -> str:
    """`road 35.2%, sky 17.0% and 9 more; ignored 3.0%`."""
    total = max(1, info.ignored + sum(info.histogram))
    largest = sorted(range(spec.num_classes), key=lambda k: -info.histogram[k])[:_CLASSES_SHOWN]
    shown = ", ".join(f"{spec.classes[k]} {info.histogram[k] / total:.1%}" for k in largest)
    more = f" and {spec.num_classes - _CLASSES_SHOWN} more" if spec.num_classes > _CLASSES_SHOWN else ""
    return f"{shown}{more}; ignored {info.ignored / total:.1%}"
