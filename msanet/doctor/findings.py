"""What a check says, and how a list of that is shown."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "advice", "warning", "fault"]
"""ok: a figure worth knowing; advice: might be better; warning: probably wrong; fault: will fail, or is surely wrong."""
_WIDTH = 118


@dataclass(frozen=True)
class Diagnostic:
    """One sentence of one check: what was found and, unless it is ok, what was expected and what to do."""

    level: Level
    check: str
    text: str


def has_fault(findings: Sequence[Diagnostic]) -> bool:
    """Whether the run should not be started like this."""
    return any(finding.level == "fault" for finding in findings)


def as_text(findings: Sequence[Diagnostic]) -> str:
    """One paragraph for each finding, and how many there are of each level but ok."""
    column = max((len(finding.check) for finding in findings), default=0)
    lines = [
        textwrap.fill(
            f"{finding.level:<9}{finding.check:<{column + 2}}{finding.text}",
            _WIDTH,
            subsequent_indent=" " * (column + 11),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for finding in findings
    ]
    counts = Counter(finding.level for finding in findings)
    return "\n".join([*lines, "", f"{counts['fault']} fault, {counts['warning']} warning, {counts['advice']} advice"])


def as_tree(findings: Sequence[Diagnostic]) -> dict[str, Any]:
    """What --json prints: {"fault": bool, "findings": [{"level", "check", "text"}, ...]}."""
    return {"fault": has_fault(findings), "findings": [asdict(finding) for finding in findings]}
