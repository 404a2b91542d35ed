"""The value of a setting on a command line: text as it stands where the setting takes text, else YAML."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, TypeAdapter
from pydantic_core import PydanticCustomError

from msanet.documents import parse_yaml

_NULLS = ("null", "none")
_ANY = frozenset({"any"})


def parse_value(text: str, kinds: Collection[str]) -> Any:
    """The value that `text` stands for in a setting of these kinds, see `kinds_of`.

    A setting that takes text gets it as it stands, blanks, `#` and leading zeros included. Text in quotes, and lists and mappings
    where the setting takes these too, are YAML; `null` or `none` is null where the setting may be null.

    Raises:
        ValueError: It is not valid YAML.
    """
    if "text" not in kinds:
        return parse_yaml(text)
    bare = text.strip()
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"":
        try:
            value = parse_yaml(bare)
        except ValueError:  # `"a" and "b"`
            return text
        return value if isinstance(value, str) else text
    if "null" in kinds and bare.lower() in _NULLS:
        return None
    if (bare.startswith("[") and "array" in kinds) or (bare.startswith("{") and "object" in kinds):
        return parse_yaml(text)
    if {"integer", "number", "boolean"} & {*kinds}:
        value = parse_yaml(text)
        return text if isinstance(value, str) else value
    return text


def kinds_of(annotation: Any) -> frozenset[str]:
    """What a setting takes: `text` for any text, `null`, and JSON's other types."""
    if annotation is Any:
        return _ANY
    schema = TypeAdapter[Any](annotation).json_schema()
    options = schema.get("anyOf", [schema])
    free = {"text" for option in options if option.get("type") == "string" and not {"enum", "const"} & option.keys()}
    return frozenset(free | {str(option.get("type", "any")) for option in options} - {"string"})


def kinds_by_name(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, frozenset[str]]]:
    """`kinds_of` every setting in a section and those below it, with its dotted name."""
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from kinds_by_name(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kinds_of(kind)


def _require_text(value: Any) -> Any:
    """Before pydantic, whose own words for these are about Python."""
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("empty_text", "expected text; write null for none")
    if value is not None and not isinstance(value, str | Path):
        raise PydanticCustomError("not_text", "expected text; put it in quotes")
    return value


def _expanded(path: Path) -> Path:
    """With the home folder in place of `~`."""
    try:
        return path.expanduser()
    except RuntimeError:  # no such user, or a user without a home: the text as it stands
        return path


FOLDER_PREFIX = "folder:"
"""Begins a location of images and labels that are not packed."""


def _expanded_text(text: str) -> str:
    if text.startswith(FOLDER_PREFIX):
        return FOLDER_PREFIX + str(_expanded(Path(text.removeprefix(FOLDER_PREFIX))))
    return text if "://" in text or not text.startswith("~") else str(_expanded(Path(text)))


def absolute_location(text: str) -> str:
    """A location that means the same in any working directory."""
    if "://" in text:
        return text
    prefix = FOLDER_PREFIX if text.startswith(FOLDER_PREFIX) else ""
    return prefix + str(Path(text.removeprefix(prefix)).resolve())


def absolute_plugin(name: str) -> str:
    """`path/to/file.py:NAME` with an absolute path; `package.module:NAME` as it is."""
    module, separator, attribute = name.rpartition(":")
    return f"{Path(module).resolve()}{separator}{attribute}" if module.endswith(".py") else name


Text = Annotated[str, BeforeValidator(_require_text)]
FilePath = Annotated[Path, BeforeValidator(_require_text), AfterValidator(_expanded)]
"""A file or folder; `~` is the home folder."""
Location = Annotated[str, BeforeValidator(_require_text), AfterValidator(_expanded_text)]
"""A folder, in which `~` is the home folder, or an address."""
