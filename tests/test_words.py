"""Words that may not come back: names and phrases that nobody in this field would search for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("msanet", "sharding", "launcher", "jobs", "tests", "benchmarks", "docs", "README.md")
SKIPPED = (
    "docs/decisions/",
    "docs/glossary.md",
    "msanet/config/renamed.py",
    "msanet/training/checkpoint/format.py",
    "msanet/training/nonfinite/failure_dump.py",
    "sharding/street",
    "tests/test_words.py",
    "tests/training/test_checkpoint_format.py",
)
"""Where an old name is what is meant."""
IDENTIFIERS = (
    "Pulse", "Verdict", "_Judge", "roll_call", "MissingRanks", "may_speak", "say_once", "is_to_be_said", "Judgement",
    "is_to_be_judged", "is_to_be_logged", "is_to_be_saved", "owes_validation", "GivenUp", "EXIT_REQUEUE", "when_lost",
    "deaf_helpers", "outlive_output", "end_with_parent", "OnItsWay", "TakenStep", "blackbox", "BlackBox", "PatientWriter",
    "WeightAverage", "require_same_run", "newest_whole", "best_whole", "find_fault", "engine_state", "model_card", "ModelCard",
    "Tally", "query_parallel", "attention_ranks", "Extent", "cut_pair", "cut_image", "max_masked", "max_class_ratio",
    "hand_over", "last_words", "text_of", "read_ahead", "classifier_lr", "evaluate_every",
)  # fmt: skip
PHRASES = (
    "is no setting", "is no YAML", "is no file of", "not heard of", "going on from", "for want of", "all the same",
    "leave it out", "correct it", "anew", "black box", "model card",
    "mend", "goes on from", "the same command goes on", "make no batch", "sees others now",
)  # fmt: skip
NAMES = re.compile(rf"\b({'|'.join(IDENTIFIERS)})\b")
SENTENCES = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)


def files() -> Iterator[Path]:
    for name in FOLDERS:
        for path in [ROOT / name] if name.endswith(".md") else sorted((ROOT / name).rglob("*")):
            relative = path.relative_to(ROOT).as_posix()
            if path.suffix in (".py", ".md", ".yaml", ".sh") and not relative.startswith(SKIPPED):
                yield path


def texts(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of all that people read: string literals of Python, and whole files of others."""
    if path.suffix != ".py":
        yield 1, text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def faults(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        yield from (f"{path}:{number}: {match[0]}" for match in NAMES.finditer(line))
    for first, passage in texts(path, text):
        for match in SENTENCES.finditer(" ".join(passage.split(" "))):
            yield f"{path}:{first + passage[: match.start()].count(chr(10))}: {match[0]}"


def test_retired_words_are_not_used() -> None:
    found = [fault for path in files() for fault in faults(path.relative_to(ROOT), path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_retired_words_are_found() -> None:
    text = 'x = "a"\ny = newest_whole\nz = "one\\nall the same"\n# all the same, in a comment\namend = newest_whole_1\n'
    assert list(faults(Path("a.py"), text)) == ["a.py:2: newest_whole", "a.py:4: all the same"]
    assert list(faults(Path("a.md"), "fine\nmend it")) == ["a.md:2: mend"]
