"""Settings from YAML and the command line, and the errors of wrong ones."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from msanet.config.expected import expected, place_of
from msanet.config.recipes import find_config
from msanet.config.renamed import refuse_old_name, settings_in, translate_old_names
from msanet.config.sections import Config
from msanet.config.text import kinds_by_name, parse_value
from msanet.documents import MAX_BYTES, parse_yaml
from msanet.errors import UserError
from msanet.secrets import masked, without_secrets

_MAX_SECTIONS = 8
_MOST_SHOWN = 200
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_DOTTED = re.compile(r"\b[a-z_]+(?:\.[a-z_]+)+")
_COMMAND_LINE = "the command line"
PYTHON = "the arguments"
"""Origin of settings that a Python program gives."""
_ANYTHING = frozenset[str]()


@dataclass(frozen=True)
class _Layer:
    """Settings from one place. Later layers override earlier ones. origin: this place, for errors."""

    origin: str
    tree: dict[str, Any] = field(default_factory=dict)

    def sets(self, name: str) -> bool:
        """Whether it has a setting, or a section, of this dotted name."""
        found: Any = self.tree
        for part in name.split("."):
            if not isinstance(found, dict):
                return True  # a place inside a value, such as data.crop.0
            if part not in found:
                return False
            found = found[part]
        return True


def load_config(
    path: Path | str | None,
    overrides: Sequence[str] = (),
    extra: dict[str, Any] | None = None,
    origin: str = "--deepspeed_config",
) -> Config:
    """Read YAML, apply `key.subkey=value` overrides (values are YAML) and check all of it.

    Args:
        path: A file, or the name of a recipe. Its top-level `config: OTHER` names one on which it builds.
        overrides: Words of a command line.
        extra: Nested settings applied between the two.
        origin: Where these came from, for errors.

    Raises:
        UserError: For the first fault.
    """
    layers = _read_layers(find_config(path)) if path else []
    return _check([*layers, _Layer(origin, extra or {}), _command_line(overrides)])


def load_run_config(path: Path, overrides: Sequence[str] = (), extra: dict[str, Any] | None = None) -> Config:
    """The settings that a run has written (RUN/config.yaml), also by version 0.1, with overrides. Raises UserError.

    extra: nested settings of a Python program, applied before the overrides.
    """
    written = _Layer(str(path), translate_old_names(read_yaml(path)))
    return _check([written, _Layer(PYTHON, extra or {}), _command_line(overrides)])


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a Python program, `{"trainer.steps": 3}` or `{"trainer": {"steps": 3}}`, as the latter."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        value = _without_paths(value)
        for part in reversed(name.split(".")):
            value = {part: value}
        tree = _merged(tree, value)
    return tree


def parse_config(tree: dict[str, Any], origin: str) -> Config:
    """Check nested settings. `origin` names where they came from in the error."""
    return _check([_Layer(origin, tree)])


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError if it is missing or holds anything else."""
    if not path.is_file():
        message = f"config '{path}' does not exist; give a YAML file, or the name of a recipe (msanet recipes)"
        raise UserError("MSA-CONFIG-001", message, setting="--config")
    try:
        with path.open("rb") as file:
            tree = parse_yaml(file.read(MAX_BYTES + 1))
    except ValueError as error:
        raise UserError("MSA-CONFIG-002", f"config '{path}' is not valid YAML: {error}; fix it") from None
    if not isinstance(tree, dict | None):
        message = f"config '{path}' has a {type(tree).__name__}, expected sections such as data: and trainer:"
        raise UserError("MSA-CONFIG-003", message)
    return tree or {}


def _without_paths(value: Any) -> Any:
    """With text in place of `Path`."""
    if isinstance(value, Mapping):
        return {key: _without_paths(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def settings(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """(dotted name, type, default, description) of every setting, in order; what --help and the docs are made of."""
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from settings(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _type_name(info), info.get_default(), info.description or ""


def _read_layers(path: Path, above: tuple[Path, ...] = ()) -> list[_Layer]:
    """A file and what it builds on, the deepest first. above: the files that build on it."""
    own = path.resolve()
    chain = " -> ".join(str(file) for file in (*above, path))
    if own in [file.resolve() for file in above]:
        message = f"'{path}' extends itself ({chain}), expected no circle; remove one of these `config:` lines"
        raise UserError("MSA-CONFIG-010", message, setting="config")
    tree = read_yaml(path)
    if "_base_" in tree:
        message = "'_base_' is mmsegmentation's key; write config: OTHER, the name of a recipe or a relative path"
        raise UserError("MSA-CONFIG-011", f"{message} (from {chain})", setting="_base_")
    base = tree.pop("config", None)
    if base is None:
        return [_Layer(chain, tree)]
    if not isinstance(base, str):
        message = f"config is {_shown(base)}, expected the name of a recipe or a path (from {chain})"
        raise UserError("MSA-CONFIG-005", message, setting="config")
    try:
        found = find_config(base, own.parent)
    except UserError as error:
        raise UserError(error.code, f"{error} (from {chain})", setting=error.setting) from None
    return [*_read_layers(found, (*above, path)), _Layer(chain, tree)]


def _command_line(overrides: Sequence[str]) -> _Layer:
    layer = _Layer(_COMMAND_LINE)
    for override in overrides:
        _apply(layer.tree, override)
    return layer


def _check(layers: Sequence[_Layer]) -> Config:
    """The config of all layers. Raises UserError, which says from which of them the fault comes."""
    for layer in layers:
        for name, value in settings_in(layer.tree):
            refuse_old_name(name, value, layer.origin)
    tree: dict[str, Any] = {}
    for layer in layers:
        tree = _merged(tree, layer.tree)
    try:
        return Config.model_validate({key: value for key, value in tree.items() if value is not None})
    except ValidationError as error:
        code, sentence, setting = explain(error, _nearest_setting)
        named = [setting, *_DOTTED.findall(sentence)]
        origins = [layer.origin for layer in reversed(layers) if any(name and layer.sets(name) for name in named)]
        origin = f" (from {origins[0]})" if origins else ""
        raise UserError(code, f"{sentence}{origin}", setting=setting or None) from None


def _merged(below: Any, above: Any) -> Any:
    """Nested settings, those above overriding; a section without content (None) overrides nothing."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return below if above is None and isinstance(below, dict) else above
    return {**below, **{key: _merged(below[key], value) if key in below else value for key, value in above.items()}}


@cache
def _kinds() -> dict[str, frozenset[str]]:
    """What each setting takes, by dotted name."""
    return dict(kinds_by_name(Config))


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, name = key.split(".")
    if not equals or not key or len(sections) > _MAX_SECTIONS:
        found = f"has {len(sections)} sections" if equals and key else "is not a setting"
        message = f"{_shown(override)} {found}, expected key=value, such as trainer.epochs=50 (from {_COMMAND_LINE})"
        raise UserError("MSA-CONFIG-008", message)
    kinds = _kinds().get(key, _ANYTHING)
    value = command_line_value(key, text, kinds)
    for section in sections:
        inner = tree.get(section)
        tree[section] = dict(inner) if isinstance(inner, dict) else {}
        tree = tree[section]
    tree[name] = value if "text" in kinds else _number(value)


def command_line_value(key: str, text: str, kinds: Collection[str]) -> Any:
    """The value of `key=text`. kinds: what the setting takes, see `kinds_of`. Raises UserError."""
    if not text.strip():
        message = (
            f"the value of {_shown(key)} is empty, expected one; for none write {key[:50]}=null, else remove this word"
        )
        raise UserError("MSA-CONFIG-401", f"{message} (from {_COMMAND_LINE})", setting=key)
    try:
        return parse_value(text, kinds)
    except ValueError:
        message = f"the value of {_shown(key)} is not valid YAML; quote it, such as '{key[:50]}=\"...\"'"
        raise UserError("MSA-CONFIG-009", f"{message} (from {_COMMAND_LINE})", setting=key) from None


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text (it wants `1.0e-3`); users mean the number."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def help_lines(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every setting of a section as --help prints it."""
    for name, kind, default, text in settings(section, prefix):
        yield from (f"  {name}={as_typed(default)}", f"      {text} [{kind}]")


def as_typed(value: Any) -> str:
    """A value as it is typed on a command line."""
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).strip()
    return text.removesuffix("...").strip().replace(" ", "")


def explain(
    error: ValidationError, advise: Callable[[str], str], root: type[BaseModel] = Config
) -> tuple[str, str, str]:
    """Code, sentence (without passwords) and setting of the first fault in a `root`. advise: on an unknown setting."""
    first = error.errors(include_url=False)[0]
    parts, field, has_branches = place_of(root, first["loc"])
    is_short_list = first["type"] == "missing" and parts[-1].isdecimal()
    name = ".".join(parts[:-1] if is_short_list else parts)
    if first["type"] == "extra_forbidden":
        return "MSA-CONFIG-004", f"unknown setting {_shown(name)}; {advise(name)}", name
    if first["type"] == "missing" and not is_short_list:
        return "MSA-CONFIG-012", f"{_shown(name)} is missing; give it a value", name
    if first["type"] == "value_error":
        sentence = without_secrets(str(first["ctx"]["error"]))
        named = _DOTTED.search(sentence)
        return "MSA-CONFIG-007", sentence, named[0] if named else name
    given = _shown(masked(first["input"]))
    words = expected(
        first["type"], first.get("ctx", {}), first["msg"], _type_name(field) if field else "", has_branches
    )
    fix = f"; write [{given[1:-1]}]" if words == "expected list of text" and isinstance(first["input"], str) else ""
    sentence = f"{_shown(name)[1:-1]} is {given}, {words}{fix}"
    return "MSA-CONFIG-005", sentence, name


def _shown(value: Any) -> str:
    """In a sentence: short, on one line and without passwords."""
    text = without_secrets(value if isinstance(value, str) else repr(value))
    text = repr(text) if isinstance(value, str) else text
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 4]}...{text[-1]}"


def _nearest_setting(name: str) -> str:
    """What to write for an unknown setting: the near one of its section, or of its name elsewhere, or all of the section."""
    known, sections = [setting for setting, *_ in settings()], list(Config.model_fields)
    section, _, last = name.rpartition(".")
    siblings = [setting.rpartition(".")[2] for setting in known if section and setting.rpartition(".")[0] == section]
    first, _, rest = name.partition(".")
    near = get_close_matches(last if siblings else first, siblings or sections, 1, 0.75)
    elsewhere = [setting for setting in known if setting.split(".")[-1] == last]
    if near:
        suggestion = f"{section}.{near[0]}" if siblings else f"{near[0]}.{rest}".rstrip(".")
    elif elsewhere:
        suggestion = elsewhere[0]
    elif siblings:
        return f"settings of {section} are: {', '.join(siblings)}"
    else:
        return f"sections are: {', '.join(sections)}"
    return f"did you mean '{suggestion}'?"


def _type_name(field: FieldInfo) -> str:
    """A type as users would write it: `int`, `[height, width]`, `adam | adamw | sgd`, `float or null`."""
    return _schema_name(TypeAdapter[Any](field.annotation or str).json_schema())


def _schema_name(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_schema_name, schema["anyOf"]))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("format") == "path":
        return "path"
    if "$ref" in schema:
        return "mapping"
    if "items" in schema:
        item = _schema_name(schema["items"])
        return f"list of ({item})" if " or " in item else f"list of {item}"
    if "prefixItems" in schema:
        return "[" + ", ".join(_schema_name(item) for item in schema["prefixItems"]) + "]"
    names = {"integer": "int", "number": "float", "string": "text", "boolean": "true | false", "array": "list"}
    return names.get(schema["type"], schema["type"])
