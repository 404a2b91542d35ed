"""What a setting expects, in words for people: pydantic's own are about Python's types."""

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

_WORDS = {
    "greater_than": "expected a number above {gt}",
    "greater_than_equal": "expected {ge} or more",
    "less_than": "expected a number below {lt}",
    "less_than_equal": "expected {le} or less",
    "finite_number": "expected a finite number",
    "literal_error": "expected {expected}",
    "model_type": "expected a section of settings, such as {{name: value}}",
    "dict_type": "expected a mapping, such as {{name: value}}",
}
_NUMBERS = {
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "expected a whole number, and a smaller one",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected text; put it in quotes",
}


def place_of(root: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], Any, bool]:
    """The setting at a location of pydantic's, which also names the branches of unions and the places in a value.

    Returns:
        Its name in parts, with numbers of places inside a value; its field, or None where there is none; and whether the location
        goes through a branch of a union.
    """
    parts: list[str] = []
    model: Any = root
    field, branch = None, False
    for part in location:
        if isinstance(part, int):
            parts.append(str(part))
        elif isinstance(model, type) and issubclass(model, BaseModel):
            known = {name: name for name in model.model_fields} | {
                f.alias: n for n, f in model.model_fields.items() if f.alias
            }
            parts.append(part)
            field = model.model_fields.get(known.get(part, ""))
            model = field.annotation if field else None
        elif get_origin(model) in (dict, Mapping):
            parts.append(part)
            model = get_args(model)[1]
        elif get_origin(model) in (Union, UnionType):
            branch = True
        else:
            parts.append(part)
    if branch:
        while parts and parts[-1].isdecimal():
            parts.pop()
    return parts, field, branch


def expected(kind: str, context: Mapping[str, Any], message: str, type_name: str, has_branches: bool) -> str:
    """What was expected, for an error of pydantic's. type_name: of the setting, in words."""
    if has_branches and type_name:
        return f"expected {type_name}"
    if kind in _WORDS:
        shown = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
        return _WORDS[kind].format(**shown)
    if kind in _NUMBERS:
        return _NUMBERS[kind]
    if kind in ("empty_text", "not_text"):
        return message
    if type_name or message.startswith("Input should be "):
        return f"expected {type_name or message.removeprefix('Input should be ')}"
    return f"{message[0].lower()}{message[1:]}"
