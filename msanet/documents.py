"""YAML and JSON that a person wrote, within bounds: what is large, deep or multiplies itself is refused before it is built."""

import json
import math
import unicodedata
from typing import Any

import yaml

MAX_BYTES = 2**18
_MAX_VALUES = 20_000
_MAX_DEPTH = 50


def parse_yaml(text: str | bytes) -> Any:
    """Plain values of a YAML document (YAML 1.1 without tags of its own). Raises ValueError with a few words."""
    _check_size(text)
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
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
    """Counts what aliases (`*name`) and merges (`<<`) will become, which takes exponential memory in a few lines.

    A key that stands twice in a mapping is refused: the first one would be dropped without a word.
    """

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}  # id of a node -> values in it

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value[:50]!r} stands there twice"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth, self._values = self._depth + 1, self._values + 1
        if self._values > _MAX_VALUES:
            raise yaml.composer.ComposerError(None, None, f"it has more than {_MAX_VALUES} values", mark)
        if self._depth > _MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"values are nested more than {_MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias stands inside what it names", mark)
        if node is not None and not is_alias:
            children = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else []
            children += node.value if isinstance(node, yaml.SequenceNode) else []
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in children)
            if self._sizes[id(node)] > _MAX_VALUES:
                raise yaml.composer.ComposerError(None, None, f"it has more than {_MAX_VALUES} values", mark)
        return node


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
        raise ValueError(f"the key {twice[:50]!r} stands there twice")
    return found


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:50]} is beyond what a number can hold")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
