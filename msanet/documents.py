"""YAML and JSON that a person wrote, within bounds: what is large or multiplies itself is refused before it is built."""

import json
import unicodedata
from functools import partial
from typing import Any

import yaml

MAX_BYTES = 2**18
_MAX_VALUES = 20_000
_UNSEEN = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_ALIAS_COST = 100
"""Values that an alias counts as: a merge copies all that it names."""


def parse_yaml(text: str | bytes, text_keys: tuple[str, ...] = ()) -> Any:
    """Plain values of a YAML document (YAML 1.1 without tags of its own). Raises ValueError with a few words.

    text_keys: whose values are text as it stands; without quotes, YAML reads `no` as false and `1.0` as a number.
    """
    _check_size(text)
    try:
        value = yaml.load(text, partial(_Loader, text_keys=text_keys))  # type: ignore[arg-type]  # a SafeLoader
        repr(value)  # ValueError for an integer that is too large to print
        return value
    except yaml.MarkedYAMLError as error:  # without the line: it may hold a password
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"{error.problem or error.context}{f' in line {mark.line + 1}' if mark else ''}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except (yaml.YAMLError, ValueError, AttributeError, LookupError, OverflowError) as error:  # of dates and numbers
        raise ValueError(" ".join(str(error).split())[:200] or "a value that cannot be read") from None


def parse_json(text: str | bytes) -> Any:
    """Plain values of a JSON document whose keys are unique and numbers finite. Raises ValueError with a few words."""
    _check_size(text)
    try:
        value = json.loads(text, object_pairs_hook=_unique)
        json.dumps(value, allow_nan=False)  # ValueError for NaN and Infinity
        return value
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def is_line(text: str) -> bool:
    """Whether a person can be shown it in one line; spaces of all kinds are fine, as are joiners (Persian, emoji).

    Characters that are not seen are fine too, but for those that turn the direction of what follows.
    """
    return all(c.isprintable() or unicodedata.category(c) == "Zs" or c in _UNSEEN for c in text)


def _check_size(text: str | bytes) -> None:
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} bytes, expected at most {MAX_BYTES}")


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which the first would be dropped silently, and what would take much memory.

    That is many values, and aliases (`*name`, `<<`) inside a value that has a name itself, which grow exponentially.
    """

    _values = _named = 0

    def __init__(self, stream: str | bytes, text_keys: tuple[str, ...]) -> None:
        super().__init__(stream)
        self._text_keys = text_keys

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, value in node.value:
            if isinstance(value, yaml.ScalarNode) and key.value in self._text_keys:
                value.tag = "tag:yaml.org,2002:str"
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise _problem(f"the key {key.value[:50]!r} is there twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        is_named = not is_alias and event.anchor is not None
        self._values += _ALIAS_COST if is_alias else 1
        if self._values > _MAX_VALUES:
            raise _problem(f"it has more than {_MAX_VALUES} values", event.start_mark)
        if is_alias and self._named:
            raise _problem("an alias is inside a value that has a name itself", event.start_mark)
        self._named += is_named
        node = super().compose_node(parent, index)
        self._named -= is_named
        return node


def _problem(sentence: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, sentence, mark)


for _tag in ("binary", "set", "omap", "pairs"):  # no settings are made of these
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", yaml.SafeLoader.construct_undefined)  # type: ignore[type-var]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:50]!r} is there twice")
        found[key] = value
    return found
