"""Checks of the labels: mistakes that a histogram of train ids gives away."""

from collections.abc import Sequence

from msanet.data.manifest import SplitInfo
from msanet.doctor.diagnostics import Diagnostic
from msanet.doctor.shards import SampleStatistics

_DOMINANT, _IGNORED = 0.95, 0.5
_VOID_NAMES = {"void", "unlabelled", "unlabeled", "ignore", "ignored", "unknown", "undefined", "dontcare"}
_NAMED = 8


def binary_masks(train: SplitInfo, classes: Sequence[str]) -> list[Diagnostic]:
    """Masks with 255 for objects, which is ignored: only one class in addition to ignored pixels."""
    used = [k for k, pixels in enumerate(train.histogram) if pixels]
    if len(classes) < 2 or used != [0] or not train.ignored:
        return []
    return [
        Diagnostic(
            "fault",
            "labels",
            f"training labels hold nothing but class 0 ('{classes[0]}') and ignored pixels, expected {len(classes)} classes: "
            "probably masks of 0 and 255 with 255 for objects; say so in the classes file (`id: 255`, or white as the color of "
            "the class) and pack again",
        )
    ]


def shifted_ids(train: SplitInfo, val: SplitInfo | None, classes: Sequence[str]) -> list[Diagnostic]:
    """Class 0 never occurs while the last one does, in any split: ids that begin with 1, read as if with 0."""
    counts = [sum(pair) for pair in zip(train.histogram, (val or train).histogram, strict=True)]
    if len(classes) < 3 or counts[0] or not counts[-1]:
        return []
    return [
        Diagnostic(
            "warning",
            "labels",
            f"class 0 ('{classes[0]}') never occurs while the last ('{classes[-1]}') does, expected both: probably ids that "
            "begin with 1; sample at what `python -m sharding inspect --sheet` draws, then fix the table of ids and pack again",
        )
    ]


def missing_classes(train: SplitInfo, val: SplitInfo | None, classes: Sequence[str]) -> list[Diagnostic]:
    """Classes without a training pixel."""
    absent = [k for k, pixels in enumerate(train.histogram) if not pixels]
    evaluated = [classes[k] for k in absent if val and val.histogram[k]]
    unused = [classes[k] for k in absent if not (val and val.histogram[k])]
    diagnostics = []
    if evaluated:
        text = (
            f"{_listed(evaluated)} occur in validation and never in training, expected none: their IoU will be 0; put "
            "images that show them into the training split, or ignore their ids"
        )
        diagnostics.append(Diagnostic("warning", "labels", text))
    if unused:
        text = (
            f"{_listed(unused)} never occur, expected all {len(classes)} classes to; remove them from the classes, or fix "
            "the table of ids"
        )
        diagnostics.append(Diagnostic("warning", "labels", text))
    if not absent:
        rarest = min(range(len(classes)), key=lambda k: train.histogram[k])
        share = train.histogram[rarest] / sum(train.histogram)
        text = f"all {len(classes)} classes occur in training, the rarest ('{classes[rarest]}') in {share:.2%} of its pixels"
        diagnostics.append(Diagnostic("ok", "labels", text))
    return diagnostics


def dominant_class(train: SplitInfo, classes: Sequence[str]) -> list[Diagnostic]:
    """One class that is nearly everything."""
    total = sum(train.histogram)
    share, largest = max((pixels / max(1, total), k) for k, pixels in enumerate(train.histogram))
    if share <= _DOMINANT or len(classes) < 2:
        return []
    return [
        Diagnostic(
            "warning",
            "labels",
            f"'{classes[largest]}' has {share:.1%} of the labeled pixels, expected at most {_DOMINANT:.0%}: a network that "
            "predicts nothing else is right; set data.cat_max_ratio=0.75, loss.class_weights=median_frequency or loss.dice",
        )
    ]


def ignored_share(name: str, split: SplitInfo) -> list[Diagnostic]:
    """A split most of which does not count."""
    share = split.ignored / max(1, split.ignored + sum(split.histogram))
    if share <= _IGNORED:
        return []
    return [
        Diagnostic(
            "fault" if share == 1 else "warning",
            "labels",
            f"{share:.1%} of the pixels of {name} are ignored, expected at most {_IGNORED:.0%}: probably a wrong table of ids "
            "(such as labelIds read as trainIds); fix it and pack again",
        )
    ]


def void_class(train: SplitInfo, classes: Sequence[str]) -> list[Diagnostic]:
    """A class whose name means that it should be ignored."""
    found = [name for k, name in enumerate(classes) if _letters(name) in _VOID_NAMES and train.histogram[k]]
    if not found:
        return []
    return [
        Diagnostic(
            "warning",
            "labels",
            f"{_listed(found)} is learned and evaluated as a class, expected it to be ignored; map its id to 255 (in a classes "
            "file: ignore) and pack again",
        )
    ]


def image_is_label(statistics: Sequence[SampleStatistics]) -> list[Diagnostic]:
    """The mask in the place of the image."""
    keys = [sample.key for sample in statistics if sample.image_is_label]
    if not keys:
        return []
    return [
        Diagnostic(
            "fault",
            "labels",
            f"{len(keys)} of {len(statistics)} images have the values of their labels (such as '{keys[0]}'), expected "
            "photographs; fix the folders that were packed and pack again",
        )
    ]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalpha())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ("class " if len(names) == 1 else "classes ") + ", ".join(f"'{name}'" for name in names[:_NAMED]) + more
