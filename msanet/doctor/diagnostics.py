"""Diagnostics, the results of checks, and how a list of them is shown."""

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec

Level = Literal["ok", "advice", "warning", "fault"]
"""ok: worth knowing; advice: might be better; warning: probably wrong; fault: will fail, or is surely wrong."""
Found = Iterator[tuple[Level, str]]
"""What a check yields: levels and sentences."""
P = ParamSpec("P")
_WIDTH = 118


@dataclass(frozen=True)
class Diagnostic:
    """One sentence of one check: what was found and, unless it is ok, what was expected and what to do."""

    level: Level
    check: str
    text: str


def check(name: str) -> Callable[[Callable[P, Found]], Callable[P, list[Diagnostic]]]:
    """Decorate a generator of levels and sentences: it then returns a list of diagnostics, which have this name."""

    def decorated(find: Callable[P, Found]) -> Callable[P, list[Diagnostic]]:
        @wraps(find)
        def run(*args: P.args, **kwargs: P.kwargs) -> list[Diagnostic]:
            return [Diagnostic(level, name, text) for level, text in find(*args, **kwargs)]

        return run

    return decorated


def has_fault(diagnostics: Sequence[Diagnostic]) -> bool:
    """Whether the run should not be started like this."""
    return any(diagnostic.level == "fault" for diagnostic in diagnostics)


def as_text(diagnostics: Sequence[Diagnostic]) -> str:
    """One paragraph for each diagnostic, and how many there are of each level but ok."""
    column = max((len(diagnostic.check) for diagnostic in diagnostics), default=0)
    lines = [
        textwrap.fill(
            f"{diagnostic.level:<9}{diagnostic.check:<{column + 2}}{diagnostic.text}",
            _WIDTH,
            subsequent_indent=" " * (column + 11),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for diagnostic in diagnostics
    ]
    counts = Counter(diagnostic.level for diagnostic in diagnostics)
    return "\n".join([*lines, "", f"{counts['fault']} fault, {counts['warning']} warning, {counts['advice']} advice"])


def as_tree(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """What --json prints: {"fault": bool, "diagnostics": [{"level", "check", "text"}, ...]}."""
    return {"fault": has_fault(diagnostics), "diagnostics": [asdict(diagnostic) for diagnostic in diagnostics]}
