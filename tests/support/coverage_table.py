"""Print the coverage of the last test run, a line a package: python tests/support/coverage_table.py."""

import sys
from collections import defaultdict
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parents[2]


def by_package(measured: coverage.Coverage, root: Path, top: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Package to (statements, executed statements); modules of a package's own folder count for it.

    Args:
        measured: With its data loaded.
        root: Folder that holds the packages.
        top: Their names. Each of their subpackages is a line of its own.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name in top:
        for path in sorted((root / name).rglob("*.py")):
            _, statements, _, missing, _ = measured.analysis2(str(path))
            package = ".".join(path.relative_to(root).parent.parts[:2])
            counts[package][0] += len(statements)
            counts[package][1] += len(statements) - len(missing)
    return {package: (statements, executed) for package, (statements, executed) in counts.items()}


def table(counts: dict[str, tuple[int, int]]) -> str:
    """One line a package, and the total."""
    rows = [*sorted(counts.items()), ("total", tuple(map(sum, zip(*counts.values(), strict=True))))]
    lines = [
        f"{name:20} {statements:6} {100 * executed / max(1, statements):5.0f} %"
        for name, (statements, executed) in rows
    ]
    return "\n".join([f"{'coverage':20} {'lines':>6}   share", *lines, "Processes that tests start are not measured."])


def main() -> int:
    """Print the table of the data file that pyproject.toml names."""
    measured = coverage.Coverage(config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    print(table(by_package(measured, ROOT, ("msanet", "sharding"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
