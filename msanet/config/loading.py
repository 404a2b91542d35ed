"""Settings from YAML and the command line, and what is said where they are wrong."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from msanet.config.sections import Config
from msanet.documents import MAX_BYTES, parse_yaml
from msanet.errors import UserError, nearest
from msanet.secrets import masked, without_secrets

_MAX_SECTIONS = 8
_MOST_SHOWN = 200
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def load_config(path: Path | None, overrides: Sequence[str] = (), extra: dict[str, Any] | None = None) -> Config:
    """Read YAML, apply `key.subkey=value` overrides (values are YAML) and check all of it.

    extra: nested settings applied between the two. Raises UserError with one sentence for the first fault.
    """
    tree: dict[str, Any] = read_yaml(path) if path else {}
    for key, value in (extra or {}).items():
        inner = tree.get(key)
        tree[key] = {**inner, **value} if isinstance(inner, dict) else value
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, str(path) if path else "the command line")


def parse_config(tree: dict[str, Any], origin: str) -> Config:
    """Check nested settings. `origin` names where they came from in the error."""
    try:
        return Config.model_validate({key: value for key, value in tree.items() if value is not None})
    except ValidationError as error:
        raise UserError(f"{explain(error, _nearest_setting)} (in {origin})") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError if it is missing or holds anything else."""
    if not path.is_file():
        raise UserError(f"config '{path}' is not there; give a YAML file, such as jobs/recipes/camvid.yaml")
    try:
        with path.open("rb") as file:
            tree = parse_yaml(file.read(MAX_BYTES + 1))
    except ValueError as error:
        raise UserError(f"config '{path}' is no YAML of settings: {error}; correct it") from None
    if not isinstance(tree, dict | None):
        raise UserError(f"config '{path}' holds a {type(tree).__name__}, expected sections such as data: and trainer:")
    return tree or {}


def settings(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """(dotted name, type, default, description) of every setting, in order; what --help and the docs are made of."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from settings(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _type_name(field), field.get_default(), field.description or ""


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{_shown(override)} is no setting, expected key=value, such as trainer.epochs=50")
    *sections, name = key.split(".")
    if len(sections) > _MAX_SECTIONS:
        raise UserError(f"{_shown(key)} has {len(sections)} sections, expected at most {_MAX_SECTIONS}; correct it")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise UserError(f"the value of {_shown(key)} is no YAML; quote it, such as '{key[:50]}=\"...\"'") from None
    for section in sections:
        inner = tree.get(section)
        tree[section] = dict(inner) if isinstance(inner, dict) else {}
        tree = tree[section]
    tree[name] = _number(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text (it wants `1.0e-3`); users mean the number."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def explain(error: ValidationError, advise: Callable[[str], str]) -> str:
    """A sentence for the first fault, without passwords. advise: how one for an unknown setting ends, by its dotted name."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{_shown(name)} is no setting; {advise(name)}"
    if first["type"] == "missing":
        return f"{_shown(name)} is missing; give it a value"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"{_shown(name)[1:-1]} is {_shown(masked(first['input']))}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _shown(value: Any) -> str:
    """In a sentence: short, on one line and without passwords."""
    text = without_secrets(value if isinstance(value, str) else repr(value))
    text = repr(text) if isinstance(value, str) else text
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 4]}...{text[-1]}"


def _nearest_setting(name: str) -> str:
    known = [setting for setting, *_ in settings()]
    section, _, last = name.rpartition(".")
    siblings = [setting for setting in known if setting.startswith(section + ".")] if section else []
    if siblings:
        return nearest(name, siblings)
    same_leaf = [setting for setting in known if setting.split(".")[-1] == last]
    return f"did you mean '{same_leaf[0]}'?" if same_leaf else nearest(name, sorted({s.split(".")[0] for s in known}))


def _type_name(field: FieldInfo) -> str:
    """A type as users would say it: `int`, `[height, width]`, `adam | adamw | sgd`, `float or null`."""
    schema = TypeAdapter[Any](field.annotation or str).json_schema()
    return " or ".join(_schema_name(part) for part in schema.get("anyOf", [schema]))


def _schema_name(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "prefixItems" in schema:
        return "[" + ", ".join(_schema_name(item) for item in schema["prefixItems"]) + "]"
    names = {"integer": "int", "number": "float", "string": "text", "boolean": "true | false", "object": "mapping"}
    return names.get(schema["type"], schema["type"])
