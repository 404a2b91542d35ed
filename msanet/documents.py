"""YAML and JSON that a person wrote, within bounds: what is large, deep or multiplies itself is refused before it is built."""

import json
import math
import unicodedata
from functools import partial
from typing import Any

import yaml

MAX_BYTES = 2**18
_MAX_VALUES = 20_000
_MAX_DEPTH = 50
_ALIAS_COST = 100
"""Values that an alias counts as: a merge copies all that it names."""


def parse_yaml(text: str | bytes, text_keys: tuple[str, ...] = ()) -> Any:
    """Plain values of a YAML document (YAML 1.1 without tags of its own). Raises ValueError with a few words.

    text_keys: whose values are text as it stands; without quotes, YAML reads `no` as false and `1.0` as a number.
    """
    _check_size(text)
    try:
        return yaml.load(text, partial(_Loader, text_keys=text_keys))  # type: ignore[arg-type]  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"{error.problem or error.context}{where}"
        ) from None  # without the line: it may hold a password
    except (yaml.YAMLError, ValueError, AttributeError, LookupError, OverflowError) as error:  # of dates and numbers
        raise ValueError(" ".join(str(error).split())[:200] or "a value that cannot be read") from None


def parse_json(text: str | bytes) -> Any:
    """Plain values of a JSON document whose keys are unique and numbers finite. Raises ValueError with a few words."""
    _check_size(text)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def is_line(text: str) -> bool:
    """Whether a person can be shown it in one line; spaces of all kinds are fine, as are joiners (Persian, emoji)."""
    return all(c.isprintable() or unicodedata.category(c) == "Zs" or c in "\u200c\u200d" for c in text)


def _check_size(text: str | bytes) -> None:
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} bytes, expected at most {MAX_BYTES}")


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which the first would be dropped silently, and what would take much memory.

    That is depth, number, and aliases (`*name`, `<<`) inside a value that has a name itself, which grow exponentially.
    """

    _depth = _values = _named = 0

    def __init__(self, stream: str | bytes, text_keys: tuple[str, ...]) -> None:
        super().__init__(stream)
        self._text_keys = text_keys

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, value in node.value:
            if isinstance(value, yaml.ScalarNode) and key.value in self._text_keys:
                value.tag = "tag:yaml.org,2002:str"
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                self._require(
                    (key.tag, key.value) not in seen, f"the key {key.value[:50]!r} is there twice", key.start_mark
                )
                seen.add((key.tag, key.value))
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        is_named = not is_alias and event.anchor is not None
        self._values += _ALIAS_COST if is_alias else 1
        self._require(self._values <= _MAX_VALUES, f"it has more than {_MAX_VALUES} values", event.start_mark)
        self._require(self._depth < _MAX_DEPTH, f"values are nested more than {_MAX_DEPTH} deep", event.start_mark)
        self._require(
            not (is_alias and self._named), "an alias is inside a value that has a name itself", event.start_mark
        )
        self._depth, self._named = self._depth + 1, self._named + is_named
        node = super().compose_node(parent, index)
        self._depth, self._named = self._depth - 1, self._named - is_named
        return node

    @staticmethod
    def _require(holds: bool, problem: str, mark: Any) -> None:
        if not holds:
            raise yaml.composer.ComposerError(None, None, problem, mark)


def _integer(loader: "_Loader", node: yaml.ScalarNode) -> int:
    value: int = loader.construct_yaml_int(node)
    if abs(value) >= 2**64:  # `1:1:1:...`, of base 60, grows beyond what Python prints
        raise ValueError("an integer has more than 64 bits")
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
for _tag in ("binary", "set", "omap", "pairs"):  # no settings are made of these
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", yaml.SafeLoader.construct_undefined)  # type: ignore[type-var]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {twice[:50]!r} is there twice")
    return found


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:50]} is too large for a number")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")
