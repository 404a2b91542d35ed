"""Checks of the labels: mistakes that a histogram of train ids gives away."""

from collections.abc import Sequence

from msanet.data.manifest import SplitInfo
from msanet.doctor.diagnostics import Diagnostic, Found, Level, check
from msanet.doctor.shards import SampleStatistics

_DOMINANT, _IGNORED = 0.95, 0.5
_VOID_NAMES = {"void", "unlabelled", "unlabeled", "ignore", "ignored", "unknown", "undefined", "dontcare"}
_NAMED = 8


def label_diagnostics(
    train: SplitInfo, val: SplitInfo | None, classes: Sequence[str], statistics: Sequence[SampleStatistics]
) -> list[Diagnostic]:
    """Those of all checks below; val: None without a validation split."""
    binary = binary_masks(train, classes)
    ignored = ignored_share("training", train)
    ignored += ignored_share("validation", val) if val else []
    if binary or not sum(train.histogram):
        return [*binary, *ignored, *image_is_label(statistics)]  # all others would follow from these
    return [
        *ignored,
        *shifted_ids(train, val, classes),
        *missing_classes(train, val, classes),
        *dominant_class(train, classes),
        *void_class(train, classes),
        *image_is_label(statistics),
    ]


@check("labels")
def binary_masks(train: SplitInfo, classes: Sequence[str]) -> Found:
    """Masks with 255 for objects, which is ignored: only one class in addition to ignored pixels."""
    used = [k for k, pixels in enumerate(train.histogram) if pixels]
    if len(classes) > 1 and used == [0] and train.ignored:
        text = (
            f"training labels have only class 0 ('{classes[0]}') and ignored pixels, expected {len(classes)} classes: probably "
            "masks of 0 and 255 with 255 for objects; say so in the classes file (`id: 255`, or white as the color of the class) "
            "and pack again"
        )
        yield "fault", text


@check("labels")
def shifted_ids(train: SplitInfo, val: SplitInfo | None, classes: Sequence[str]) -> Found:
    """Class 0 never occurs while the last one does, in any split: ids that begin with 1, read as if with 0."""
    counts = [sum(pair) for pair in zip(train.histogram, (val or train).histogram, strict=True)]
    if len(classes) > 2 and not counts[0] and counts[-1]:
        text = (
            f"class 0 ('{classes[0]}') never occurs while the last ('{classes[-1]}') does, expected both: probably ids that "
            "begin with 1; look at what `msanet inspect --sheet` draws, then fix the table of ids and pack again"
        )
        yield "warning", text


@check("labels")
def missing_classes(train: SplitInfo, val: SplitInfo | None, classes: Sequence[str]) -> Found:
    """Classes without a training pixel."""
    absent = [k for k, pixels in enumerate(train.histogram) if not pixels]
    evaluated = [classes[k] for k in absent if val and val.histogram[k]]
    unused = [classes[k] for k in absent if not (val and val.histogram[k])]
    if evaluated:
        what = f"{_listed(evaluated)} occur in validation and never in training, expected none: their IoU will be 0"
        yield "warning", f"{what}; add training images that show them, or ignore their ids"
    if unused:
        what = f"{_listed(unused)} never occur, expected all {len(classes)} classes to"
        yield "warning", f"{what}; remove them from the classes, or fix the table of ids"
    if not absent:
        rarest = min(range(len(classes)), key=lambda k: train.histogram[k])
        share = train.histogram[rarest] / sum(train.histogram)
        rare = f"the rarest ('{classes[rarest]}') in {share:.2%} of its pixels"
        yield "ok", f"all {len(classes)} classes occur in training, {rare}"


@check("labels")
def dominant_class(train: SplitInfo, classes: Sequence[str]) -> Found:
    """One class that is nearly everything."""
    total = sum(train.histogram)
    share, largest = max((pixels / max(1, total), k) for k, pixels in enumerate(train.histogram))
    if share > _DOMINANT and len(classes) > 1:
        text = (
            f"'{classes[largest]}' has {share:.1%} of the labeled pixels, expected at most {_DOMINANT:.0%}: a network that "
            "predicts nothing else is right; set data.cat_max_ratio=0.75, data.rare_class_crops=0.5, "
            "loss.class_weights=median_frequency or loss.dice"
        )
        yield "warning", text


@check("labels")
def ignored_share(name: str, split: SplitInfo) -> Found:
    """A split most of which does not count."""
    share = split.ignored / max(1, split.ignored + sum(split.histogram))
    if share > _IGNORED:
        what = f"{share:.1%} of the pixels of {name} are ignored, expected at most {_IGNORED:.0%}"
        level: Level = "fault" if share == 1 else "warning"
        yield level, f"{what}: probably a wrong table of ids (labelIds read as trainIds?); fix it and pack again"


@check("labels")
def void_class(train: SplitInfo, classes: Sequence[str]) -> Found:
    """A class whose name means that it should be ignored."""
    found = [name for k, name in enumerate(classes) if _letters(name) in _VOID_NAMES and train.histogram[k]]
    if found:
        what = f"{_listed(found)} is learned and evaluated as a class, expected it to be ignored"
        yield "warning", f"{what}; map its id to 255 (in a classes file: ignore) and pack again"


@check("labels")
def image_is_label(statistics: Sequence[SampleStatistics]) -> Found:
    """The mask in the place of the image."""
    keys = [sample.key for sample in statistics if sample.image_is_label]
    if keys:
        what = f"{len(keys)} of {len(statistics)} images have the values of their labels (such as '{keys[0]}')"
        yield "fault", f"{what}, expected photographs; fix the folders that were packed and pack again"


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalpha())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ("class " if len(names) == 1 else "classes ") + ", ".join(f"'{name}'" for name in names[:_NAMED]) + more
