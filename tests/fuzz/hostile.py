"""What comes from strangers: damaged bytes, and JSON that is not as it should be."""

import copy
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from msanet.documents import is_line
from msanet.errors import UserError

NAMES = ("..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "\x1b[2J", "x" * 300, "", "\ud800")
"""Names that must not become files, or lines on a terminal."""
_NUMBERS = (0, 1, -1, 7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64, 10**400)
_DEEP, _SAME = "@deep@", "@same@"

wrong_values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_NUMBERS),
    st.integers(),
    st.floats(),
    st.sampled_from(NAMES),
    st.text(max_size=20),
    st.sampled_from([[], {}, [[]], {"": 0}, _DEEP, [0] * 300, ["x"] * 300]),
)


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function gives, or its UserError, which must be one short printable sentence; others go on."""
    try:
        return function(*arguments)
    except UserError as error:
        sentence = str(error)
        assert sentence and is_line(sentence) and len(sentence) < 1500, repr(sentence[:2000])
        return error


@st.composite
def altered(draw: st.DrawFn, tree: Any) -> bytes:
    """A tree of JSON with one to three values exchanged, removed, given twice or nested deep; now and then cut short."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(root))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(["exchange", "exchange", "remove", "twice", "add"]))
        if action == "remove" and holder is not root:
            del holder[key]
        elif action == "twice" and isinstance(holder, dict):
            holder[_SAME + str(key)] = copy.deepcopy(draw(wrong_values))
        elif action == "add" and isinstance(holder, list) and holder is not root:
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(draw(wrong_values))
    text = json.dumps(root[0])
    text = text.replace(f'"{_DEEP}"', "[" * 5000 + "]" * 5000).replace(_SAME, "")
    data = text.encode()
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value inside, at most the first 12 of each list."""
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node[:12]))
    for key, value in pairs:
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


@st.composite
def damaged(draw: st.DrawFn, data: bytes, header: int = 400) -> bytes:
    """Bytes flipped, exchanged, removed, repeated or cut off, and numbers of all widths put in, mostly in the header."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        size = len(found)
        if not size:
            break
        at = draw(st.integers(0, min(header, size) - 1) | st.integers(0, size - 1))
        action = draw(st.sampled_from(["flip", "byte", "number", "number", "cut", "remove", "repeat"]))
        if action == "flip":
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif action == "byte":
            found[at] = draw(st.integers(0, 255))
        elif action == "number":
            layout = draw(st.sampled_from(["<H", ">H", "<I", ">I", "<Q"]))
            number = draw(st.sampled_from(_NUMBERS[:2] + _NUMBERS[3:9])) % 2 ** (8 * struct.calcsize(layout))
            found[at : at + struct.calcsize(layout)] = struct.pack(layout, number)
        elif action == "cut":
            del found[at:]
        else:
            length = draw(st.integers(1, 64))
            found[at:at] = found[at : at + length] if action == "repeat" else b""
            if action == "remove":
                del found[at : at + length]
    return bytes(found)
