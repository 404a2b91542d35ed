"""Files in which annotation tools say what their classes are, as the content of a classes file (sharding.readers.folder)."""

import io
import re
from typing import Any

from PIL import Image

from msanet.data.image.codec import FORMATS
from msanet.datasets import DatasetSpec
from msanet.datasets.voc import voc_color
from msanet.documents import parse_json
from msanet.errors import UserError
from sharding.tree import Tree

Color = tuple[int, int, int]
_MOST_COLORS = 2**16
_NO_CLASS = ("__ignore__", "void", "border", "ignore")


def find_classes(tree: Tree) -> tuple[dict[str, Any], str] | None:
    """(content, path) of the first of these files, or of _classes.csv (Roboflow); None without one.

    labelmap.txt is CVAT's, class_names.txt labelme2voc's, labels.txt PaddleSeg's, id2label.json transformers'.
    """
    files = tree.files("")
    for name, parse in _PARSERS.items():
        if name in files:
            return parse(_lines(tree, name), tree.show(name)), name
    for folder in ("", *tree.folders("")):
        path = f"{folder}/_classes.csv".lstrip("/")
        if "_classes.csv" in tree.files(folder):
            return _csv(_lines(tree, path), tree.show(path)), path
    return None


def foreign_classes(tree: Tree, spec: DatasetSpec) -> str | None:
    """The file in `tree` that has other classes than `spec`, and which; None where there is none."""
    found = find_classes(tree)
    if found is None:
        return None
    rows = [row for row in found[0]["classes"] if row["name"] not in _NO_CLASS]
    if not rows:
        return None
    names = [row["name"].strip("_") for row in rows]
    if "color" in rows[0] and found[1] == "labelmap.txt":  # by whose colors masks are read, whatever the order
        palette = dict(zip(spec.classes, spec.palette, strict=True))
        if all(palette.get(name) == tuple(row["color"]) for name, row in zip(names, rows, strict=True)):
            return None
    elif names == list(spec.classes[: len(names)]):
        return None
    return f"'{tree.show(found[1])}' has the classes {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def colors_of(data: bytes) -> set[Color]:
    """The colors that the pixels of a mask show; none of one that is grey, or damaged."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            shown = image.convert("RGB").getcolors(_MOST_COLORS) if image.mode in ("P", "RGB", "RGBA") else []
    except Exception:  # Pillow raises any kind where a file is damaged
        return set()
    found: set[Color] = {color for _, color in shown or []}  # type: ignore[misc]
    return set() if all(red == green == blue for red, green, blue in found) else found


def _lines(tree: Tree, path: str) -> list[str]:
    return [line.strip() for line in tree.read(path).decode("utf-8-sig", errors="replace").splitlines() if line.strip()]


def _labelmap(lines: list[str], shown: str) -> dict[str, Any]:
    classes: list[dict[str, Any]] = []
    for line in lines:
        if not line.startswith("#"):
            match = re.fullmatch(r"(.+?):\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(:.*)?", line)
            if match is None:
                raise _invalid(shown, line, "NAME:RED,GREEN,BLUE:PARTS:ACTIONS")
            color = [int(value) for value in match.groups()[1:4]]
            classes.append({"id": len(classes), "name": match[1].strip(), "color": color})
    return {"classes": classes}


def _class_names(lines: list[str], shown: str) -> dict[str, Any]:
    names = [line for line in lines if line != "__ignore__"]
    return {
        "classes": [{"id": number, "name": name, "color": list(voc_color(number))} for number, name in enumerate(names)]
    }


def _csv(lines: list[str], shown: str) -> dict[str, Any]:
    classes = []
    for line in lines:
        value, _, name = (part.strip() for part in line.partition(","))
        if value.isascii() and value.isdigit() and name:
            classes.append({"id": int(value), "name": name.strip('"')})
        elif line != lines[0]:
            raise _invalid(shown, line, "PIXEL VALUE,CLASS")
    return {"classes": classes}


def _id2label(lines: list[str], shown: str) -> dict[str, Any]:
    try:
        rows = sorted((int(value), str(name)) for value, name in parse_json("\n".join(lines)).items())
    except (ValueError, AttributeError) as error:
        raise _invalid(shown, str(error), '{"0": "CLASS", "1": ...}') from error
    return {"classes": [{"id": value, "name": name} for value, name in rows]}


_PARSERS = {
    "labelmap.txt": _labelmap,
    "class_names.txt": _class_names,
    "labels.txt": _class_names,
    "id2label.json": _id2label,
}


def _invalid(shown: str, line: str, expected: str) -> UserError:
    return UserError(
        "MSA-PACK-205",
        f"'{shown}' has the line '{line[:80]}', expected {expected}; fix it, or say the classes with --classes",
    )
