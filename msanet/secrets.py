"""What lets others in is left out of all that is shown or kept: passwords, keys, signatures, tokens."""

import re
from typing import Any

MASK = "***"
_NAME = (
    r"(?:password|passwd|secret|token|api_?key|access_?key(?:_?id)?|secret_?key|credentials?|signature|authorization)"
)
_IS_SECRET = re.compile(rf"(?i)[\w.-]*{_NAME}")
_PATTERNS = (
    (re.compile(r"(\w://)\S*@"), rf"\1{MASK}@"),
    (re.compile(r"(\w://[^\s?]*)\?\S+?(['\"]?)(?=\s|$)"), rf"\1?{MASK}\2"),
    (re.compile(rf"(?i)({_NAME}['\"]?\s*[=:]\s*(?:bearer |basic )?)(['\"]?)[^\s'\"&,;]+\2"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(bearer )[\w.~+/=-]{8,}"), rf"\1{MASK}"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), MASK),  # the form of AWS's key ids
)


def without_secrets(text: str) -> str:
    """The same with *** for `user:password@` and queries of addresses, what follows `token=` and the like, and AWS keys.

    Rather too much than too little: all before the last @ of an address goes, and a signed one's whole query.
    """
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def masked(value: Any) -> Any:
    """`without_secrets` of every text in nested settings, and *** for every text under a name such as `api_key`."""
    if isinstance(value, dict):
        return {
            key: MASK if isinstance(inner, str) and _IS_SECRET.fullmatch(str(key)) else masked(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(inner) for inner in value]
    if not isinstance(value, str):
        return value
    return without_secrets(re.sub(r"(\w://).*@", rf"\1{MASK}@", value, flags=re.DOTALL))  # a password may hold spaces
