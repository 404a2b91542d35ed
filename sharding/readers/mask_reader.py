"""What a mask's values, palette or colors mean: the dataset's own ids. The one place where packing reads masks of images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from msanet.datasets import IGNORE_INDEX, DatasetSpec
from msanet.datasets.spec import described_values
from msanet.datasets.voc import voc_color
from msanet.errors import UserError
from sharding.notes import note, refuse
from sharding.readers.mask_file import MaskFile, read_mask
from sharding.readers.wide_mask import WideMaskReader

Color = tuple[int, int, int]

IGNORED = -1
"""Instead of an id: does not count. No value from 0 to 255 says so by itself, each may be a class's id."""
COLORS_DECIDE = "palettes of masks are in another order than the ids of the classes, so their colors decide"
GREY_COLORS = "grey masks hold the colors of the classes instead of their ids, and are read by them"
BINARY = "masks of 0 and 255: 255 is read as the second class (`ignore: [255]` in the classes file would ignore it)"
GREY_IDS = "palettes of masks are greys in another order than the indices, as tools make them of grey ids: the greys are the ids"
TRANSPARENT = "masks have transparent pixels, whose own colors are used without the transparency"
_IDENTITY = tuple(range(256))
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True)
class MaskReader:
    """Bytes of a mask to ids (H, W), IGNORED where a color says so.

    Args:
        spec: The classes and the ids that are known.
        colors: (color, class or IGNORE_INDEX) of all colors that are known.
        grey: What grey values are: `ids`, `colors` (the grey of a class's color), or `binary` (0 and 255 are ids 0 and 1).
        where: What says so, for errors.
        ignores_others: Colors that are not known do not count. The spec, which is in the plan, then knows all values.
    """

    spec: DatasetSpec = field(repr=False)  # the plan has it already
    colors: tuple[tuple[Color, int], ...]
    grey: str = "ids"
    where: str = field(default="the dataset's description", repr=False)
    ignores_others: bool = field(default=False, repr=False)

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        return self.ids(read_mask(data, name), name)

    def ids(self, mask: MaskFile, name: str) -> np.ndarray:
        """The ids of a mask that was read, like a call with its bytes."""
        if mask.pixels.ndim == 3:
            return self._colored(mask, name)
        if mask.palette is None:
            return self._grey(mask.pixels, mask.levels, name)
        greys = self._grey_ids(mask)
        if greys is not None:
            note(GREY_IDS, name)
            return self._grey(greys[mask.pixels], _IDENTITY, name)
        levels = _grey_ramp(mask)
        return self._grey(mask.pixels, levels, name) if levels else self._palette(mask, mask.palette, name)

    def check_palettes(self, masks: Iterable[tuple[str, MaskFile]]) -> None:
        """Raise UserError where a color has another index in another file, and no colors are known to say which is right."""
        first: dict[Color, tuple[int, str]] = {}
        for name, mask in masks:
            if self.colors or mask.palette is None:
                return
            for index in _used(mask).tolist() if self._grey_ids(mask) is None else ():
                color = _color(mask.palette, index)
                other, where = first.setdefault(color, (index, name)) if color else (index, name)
                if other != index and _color(mask.palette, other) != color:
                    error = UserError(
                        "MSA-PACK-701",
                        f"the color {_listed(color)} has the index {other} in '{where}' and {index} in '{name}', expected one "
                        f"palette in all masks, or colors that say what is meant; give the classes their colors in {self.where}",
                        setting="--classes",
                    )
                    return refuse(error)

    def _grey_ids(self, mask: MaskFile) -> np.ndarray | None:
        """The grey of each index, where all greys of a palette are ids and some are not their own index; None for any other."""
        palette, classes, ids = mask.palette, dict(self.colors), self.spec.train_ids
        if palette is None or (palette != palette[:, :1]).any() or (used := _used(mask))[-1] >= len(palette):
            return None
        greys = palette[:, 0]
        shown = {*greys[used].tolist(), *greys[greys > 0].tolist()}
        if not shown <= ids.keys() or shown <= {0, 255} or (greys[used] == used).all():
            return None
        is_color = any(classes.get((grey, grey, grey), ids[grey]) != ids[grey] for grey in shown)
        return None if is_color else greys

    def _palette(self, mask: MaskFile, palette: np.ndarray, name: str) -> np.ndarray:
        """Indices, or by their colors where these say something else; entries that no pixel uses do not matter."""
        counts = np.bincount(mask.pixels.ravel(), minlength=256)
        shown = {int(index): _color(palette, int(index)) for index in np.flatnonzero(counts)}
        if not self.colors and self.spec.num_classes == 2 and shown == {0: _WHITE, 1: _BLACK}:
            raise UserError(
                "MSA-PACK-103",
                f"label '{name}' shows index 0 as white and 1 as black, expected colors of the classes that say which is "
                f"which; give both classes a color in {self.where}",
            )
        if not self.colors or all(self._agree(index, color) for index, color in shown.items()):
            return mask.pixels
        classes = dict(self.colors)
        ids = [index for index in shown if self.spec.train_ids.get(index, IGNORE_INDEX) != IGNORE_INDEX]
        if alike := next((index for index in ids if any(shown[index] == shown[id] for id in ids if id < index)), None):
            raise UserError(
                "MSA-PACK-103",
                f"label '{name}' has a palette that shows several of its indices as {_listed(shown[alike])}, expected one for "
                f"each class; save the mask with another palette or as grey ids, or remove the colors from {self.where} if the "
                "indices are right",
            )
        unknown = [index for index, color in shown.items() if color not in classes]
        if len(unknown) == len(shown) and all(color == voc_color(index) for index, color in shown.items()):
            return mask.pixels  # the palette of VOC, with which labelme and others number classes
        if unknown and not (self.ignores_others and len(unknown) < len(shown)):
            raise UserError(
                "MSA-PACK-103",
                f"label '{name}' has a palette that fits neither the ids nor the colors of {self.where}: index {unknown[0]} "
                f"({counts[unknown[0]]} pixels) has the color {_listed(shown[unknown[0]])}, which is not a class's; add it to a "
                "class or to ignore, remove the colors of the classes if the indices are right, or save the mask as grey ids",
            )
        if mask.is_opaque is not None:
            _check_alpha({index: mask.is_opaque[index] for index in shown}, shown, name)
        note(COLORS_DECIDE, name)
        table = np.full(256, IGNORED, np.int16)
        for index, color in shown.items():
            table[index] = self._id(classes.get(color, IGNORE_INDEX)) if color is not None else IGNORED
        return table[mask.pixels]

    def _agree(self, index: int, color: Color | None) -> bool:
        """Whether an index is the id of a class (or ignored) that its color does not contradict."""
        train_id, classes = self.spec.train_ids.get(index), dict(self.colors)
        if train_id is None:
            return False
        said = None if color is None else classes.get(color)
        has_color = train_id != IGNORE_INDEX and train_id in classes.values()
        return said == train_id or (said is None and not (has_color and color is not None))

    def _colored(self, mask: MaskFile, name: str) -> np.ndarray:
        """Colors of classes; where they are grey and not those of classes, grey values in three channels."""
        codes_HW = _code(mask.pixels.astype(np.int32))
        if mask.is_opaque is not None:
            _check_transparent(codes_HW, mask.is_opaque, name)
        known = _code(np.array([color for color, _ in self.colors] or [(-1, 0, 0)], np.int32))
        ids = np.array([self._id(train_id) for _, train_id in self.colors] or [0], np.int16)
        at_HW = np.searchsorted(known, codes_HW).clip(max=len(known) - 1)
        unknown = codes_HW[known[at_HW] != codes_HW]
        if not unknown.size:
            return ids[at_HW]
        grey_HW = _as_grey(mask.pixels)
        if grey_HW is not None:
            return self._grey(grey_HW, mask.levels, name)
        if self.ignores_others and self.colors:
            return np.where(known[at_HW] == codes_HW, ids[at_HW], np.int16(IGNORED))
        values, counts = np.unique(unknown, return_counts=True)
        first = int(values[counts.argmax()])
        colors = "this color" if len(values) == 1 else f"{len(values)} such colors"
        raise UserError(
            "MSA-PACK-035",
            f"label '{name}' has the color {[first >> 16, first >> 8 & 255, first & 255]} ({unknown.size} pixels are of "
            f"{colors}), expected only colors of {self.where}; add it there, to a class or to ignore, or fix the label (smoothed "
            "edges and JPEG make colors of their own)",
        )

    def _grey(self, values_HW: np.ndarray, levels: tuple[int, ...], name: str) -> np.ndarray:
        if self.grey == "ids":
            return values_HW
        classes = dict(self.colors) if self.grey == "colors" else {_BLACK: 0, _WHITE: 1}
        table = np.full(256, IGNORED, np.int16)
        known: set[int] = set()
        for value, level in enumerate(levels):
            train_id = classes.get((level, level, level))
            if train_id is not None:
                table[value] = self._id(train_id)
                known.add(value)
        counts = np.bincount(values_HW.ravel(), minlength=256)
        unknown = [value for value in np.flatnonzero(counts).tolist() if value not in known]
        if unknown and not self.ignores_others:
            raise UserError(
                "MSA-PACK-104",
                f"label '{name}' {described_values(counts, unknown)}, but other masks hold "
                f"{'0 and 255' if self.grey == 'binary' else 'grey colors of the classes'} instead of ids, expected the same "
                "of all; fix the mask, or say `ignore: [255]` in the classes file if 255 does not count and the values are ids",
            )
        note(BINARY if self.grey == "binary" else GREY_COLORS, name)
        return table[values_HW]

    def _id(self, train_id: int) -> int:
        """The smallest id of a class."""
        ids = [id for id, found in self.spec.train_ids.items() if found == train_id]
        return IGNORED if train_id == IGNORE_INDEX else min(ids)


def reader_of(spec: DatasetSpec, ignored: Iterable[Color] = ()) -> MaskReader | WideMaskReader:
    """The reader of a dataset whose classes have the colors of its palette. ignored: further colors, that do not count."""
    if spec.has_16_bits:
        return WideMaskReader(spec)
    colors = {color: IGNORE_INDEX for color in ignored} | {color: k for k, color in enumerate(spec.palette)}
    return MaskReader(spec, tuple(sorted(colors.items())), where=f"the dataset {spec.name}")


def grey_meaning(
    spec: DatasetSpec, colors: Mapping[Color, int], certain: frozenset[int], masks: Iterable[MaskFile]
) -> str:
    """What grey values are in a dataset, from masks that are not empty: `ids`, `colors` or `binary`.

    Args:
        spec: The classes; 255 is ignored where nobody says otherwise.
        colors: {color: class or IGNORE_INDEX} of those that the user gave.
        certain: Ids of classes, and ignored ones that the user named.
        masks: Read until one decides, which is the first in most datasets.
    """
    greys = {color[0]: train_id for color, train_id in colors.items() if len(set(color)) == 1}
    has_ids_0_1 = spec.num_classes == 2 and [spec.train_ids.get(id) for id in (0, 1)] == [0, 1]
    is_binary = has_ids_0_1 and 255 not in certain and greys in ({}, {0: 0})
    if is_binary:
        greys = {0: 0, 255: 1}
    if all(spec.train_ids.get(grey) == train_id for grey, train_id in greys.items()):
        return "ids"
    meaning, has_black = "ids", False
    for mask in masks:
        values_HW = mask.pixels if mask.pixels.ndim == 2 else _as_grey(mask.pixels)
        levels = mask.levels if mask.palette is None else _grey_ramp(mask)
        if values_HW is None or levels is None:
            continue
        for value in np.flatnonzero(np.bincount(values_HW.ravel(), minlength=256)).tolist():
            has_black |= levels[value] == 0
            if value in certain and levels[value] not in greys:
                return "ids"
            if value in certain and levels[value] != value and greys[levels[value]] != spec.train_ids[value]:
                return "colors"  # one bit, of which 1 is shown as white, and white is class 0
            if value not in certain and levels[value] in greys:
                meaning = "binary" if is_binary else "colors"
                if value != IGNORE_INDEX:
                    return meaning
    return meaning if has_black or meaning != "binary" else "ids"  # 255 alone: nothing is labelled


def _used(mask: MaskFile) -> np.ndarray:
    return np.flatnonzero(np.bincount(mask.pixels.ravel(), minlength=256))


def _as_grey(pixels_HWC: np.ndarray) -> np.ndarray | None:
    """(H, W) of an RGB image whose three channels are equal; None for any other."""
    red, green, blue = (pixels_HWC[..., channel] for channel in range(3))
    return np.ascontiguousarray(red) if np.array_equal(red, green) and np.array_equal(red, blue) else None


def _grey_ramp(mask: MaskFile) -> tuple[int, ...] | None:
    """The grey of each index, of a palette that only shows indices as ever lighter greys; None for any other."""
    assert mask.palette is not None
    last = int(mask.pixels.max())
    red, green, blue = mask.palette[: max(3, last + 1)].astype(int).T
    if last >= len(red) or (red != green).any() or (red != blue).any() or (np.diff(red[: last + 1]) <= 0).any():
        return None
    is_identity = last > 0 and red[last] == last
    if not is_identity and (len(red) < 3 or (np.diff(red) <= 0).any()):  # two greys are colors, such as black and white
        return None
    return (*red.tolist(), *range(len(red), 256))


def _check_transparent(codes_HW: np.ndarray, is_opaque_HW: np.ndarray, name: str) -> None:
    hidden, shown = set(np.unique(codes_HW[~is_opaque_HW]).tolist()), set(np.unique(codes_HW[is_opaque_HW]).tolist())
    if hidden & shown:
        raise _ambiguous(name, int((~is_opaque_HW).sum()))
    note(TRANSPARENT, name)


def _check_alpha(is_opaque: Mapping[int, bool], colors: Mapping[int, Color | None], name: str) -> None:
    hidden = {colors[index] for index, opaque in is_opaque.items() if not opaque}
    if hidden & {colors[index] for index, opaque in is_opaque.items() if opaque}:
        raise _ambiguous(name, 0)
    if hidden:
        note(TRANSPARENT, name)


def _ambiguous(name: str, pixels: int) -> UserError:
    count = f"{pixels} transparent pixels" if pixels else "transparent pixels"
    return UserError(
        "MSA-PACK-105",
        f"label '{name}' has {count} of the same colors as opaque ones, expected a mask without transparency: it is not "
        "known which of both is meant; save it without an alpha channel",
    )


def _color(palette: np.ndarray, index: int) -> Color | None:
    return tuple(palette[index].tolist()) if index < len(palette) else None


def _listed(color: Color | None) -> str:
    return "of none (its palette is too short)" if color is None else str(list(color))


def _code(color: np.ndarray) -> np.ndarray:
    return color[..., 0] * 2**16 + color[..., 1] * 2**8 + color[..., 2]
