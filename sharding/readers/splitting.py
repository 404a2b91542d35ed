"""Splits at random: a pure function of seed and names, so that a file that is added moves no other."""

import argparse
import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from msanet.errors import UserError
from sharding.readers.reader import DatasetListing, SamplePaths, Splits

logger = logging.getLogger(__name__)

_REST = "train"


@dataclass(frozen=True)
class RandomSplit:
    """Who goes where.

    Args:
        shares: (split, share of all groups), such as (("val", 0.1),); the rest is `train`.
        fold: (i, k): the i-th of k folds is `val`, the others are `train`.
        seed: Another one is another choice.
        group_by: Pattern whose match in an image's path is its group; samples of a group stay together. None: each alone.
    """

    shares: tuple[tuple[str, float], ...] = ()
    fold: tuple[int, int] | None = None
    seed: int = 0
    group_by: str | None = None

    def split_of(self, group: str) -> str:
        """The split of a group: by where sha256 of `SEED:GROUP`, as a fraction from 0 to 1, lies among the shares."""
        digest = hashlib.sha256(f"{self.seed}:{group}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        if self.fold is not None:
            number, count = self.fold
            return "val" if int(position * count) == number - 1 else _REST
        for split, share in self.shares:
            position -= share
            if position < 0:
                return split
        return _REST

    def apply(self, listing: DatasetListing) -> DatasetListing:
        """All samples of the listing, in splits of their own. Raises UserError where a split stays empty."""
        pooled = sorted((pair for pairs in listing.splits.values() for pair in pairs), key=lambda pair: pair.id)
        _check_ids(pooled)
        groups = [self._group(pair) for pair in pooled]
        if lacking := [pair.image for pair, group in zip(pooled, groups, strict=True) if group is None]:
            raise UserError(
                "MSA-PACK-757",
                f"--group-by '{self.group_by}' does not match '{lacking[0]}' ({len(lacking)} of {len(pooled)} images), expected "
                "a match in the path of each; fix the expression",
                setting="--group-by",
            )
        splits: Splits = {split: [] for split in (_REST, *(split for split, _ in self.shares or [("val", 0)]))}
        for pair, group in zip(pooled, groups, strict=True):
            splits[self.split_of(group or pair.id)].append(pair)
        count = len({*groups}) if self.group_by else len(pooled)
        what = f"{count} groups" if self.group_by else f"{count} images"
        if empty := next((split for split, pairs in splits.items() if not pairs), None):
            raise UserError(
                "MSA-PACK-758",
                f"the split '{empty}' gets none of the {what} with seed {self.seed}, expected at least one; choose another "
                "--seed, a larger share or smaller groups",
                setting="--seed",
            )
        shown = ", ".join(f"{split} {len(pairs)}" for split, pairs in splits.items())
        of = f" of the splits {', '.join(listing.splits)}, pooled," if len(listing.splits) > 1 else ""
        logger.info(f"{what}{of} are split at random (seed {self.seed}): {shown}")
        return replace(listing, splits=splits)

    def _group(self, pair: SamplePaths) -> str | None:
        if self.group_by is None:
            return pair.id
        match = re.search(self.group_by, pair.image)
        return "/".join(filter(None, match.groups() or [match[0]])) if match else None


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Options with which the splits of any dataset are made again."""
    parser.add_argument(
        "--random-split",
        type=_share,
        nargs="+",
        metavar="SPLIT=SHARE",
        help="split all images at random, such as val=0.1 test=0.1; the rest is train. By a hash of seed and name: a file "
        "that is added later moves no other",
    )
    parser.add_argument(
        "--fold", type=_fold, metavar="I/K", help="split at random: the I-th of K folds is val, the rest train"
    )
    group = "with either: regular expression whose match in an image's path (its groups, if it has some) keeps images together, "
    parser.add_argument("--group-by", type=_expression, metavar="REGEX", help=group + "such as 'video\\d+'")
    parser.add_argument("--seed", type=int, default=0, help="for choices at random (default 0)")


def random_split(options: argparse.Namespace) -> RandomSplit | None:
    """What the options say, or None where the splits stay as they are. Raises UserError where they contradict each other."""
    shares, fold = options.random_split, options.fold
    if shares is None and fold is None:
        if options.group_by is not None:
            message = "--group-by is given without --random-split or --fold, expected one of them; add it"
            raise UserError("MSA-PACK-756", message, setting="--group-by")
        return None
    if shares is not None and fold is not None:
        message = "--random-split and --fold are both given, expected one of them; remove the other"
        raise UserError("MSA-PACK-756", message, setting="--fold")
    names = [split for split, _ in shares or ()]
    if len({*names}) < len(names) or sum(share for _, share in shares or ()) >= 1:
        message = f"--random-split is {_shown(shares)}, expected each split once and shares below 1 in sum; fix it"
        raise UserError("MSA-PACK-756", message, setting="--random-split")
    return RandomSplit(tuple(shares or ()), fold, options.seed, options.group_by)


def _check_ids(pooled: list[SamplePaths]) -> None:
    for one, other in zip(pooled, pooled[1:], strict=False):
        if one.id == other.id:
            raise UserError(
                "MSA-PACK-018",
                f"'{one.image}' and '{other.image}' have the same id '{one.id}', expected each once; rename one",
            )


def _shown(shares: Iterable[tuple[str, float]]) -> str:
    return " ".join(f"{split}={share:g}" for split, share in shares)


def _share(text: str) -> tuple[str, float]:
    split, _, share = text.partition("=")
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if not split or split == _REST or not 0 < value < 1:
        raise argparse.ArgumentTypeError(
            f"found '{text}', expected SPLIT=SHARE with a share between 0 and 1 such as val=0.1 (train is the rest); fix it"
        )
    return split, value


def _fold(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text, re.ASCII)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count or count < 2:
        raise argparse.ArgumentTypeError(f"found '{text}', expected I/K with I from 1 to K, such as 1/5; fix it")
    return number, count


def _expression(text: str) -> Any:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a regular expression ({error}); fix it") from error
    return text
