"""The notebooks of examples/: they are committed with their pictures, and still run."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install nbclient ipykernel")
NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))


def _code(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_as_it_was_executed_with_small_pictures(path: Path) -> None:
    cells = _code(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert {output["output_type"] for output in outputs} <= {"display_data", "execute_result", "stream"}
    assert path.stat().st_size < 400_000 and not re.search(r"/(?:home|root|work|tmp)/", path.read_text())


def test_the_notebooks_use_every_function_but_the_export_and_folder_scores() -> None:
    sources = "\n".join(cell["source"] for path in NOTEBOOKS for cell in _code(path))
    used = {node.attr for node in ast.walk(ast.parse(sources)) if isinstance(node, ast.Attribute)}
    assert {"pack", "train", "evaluate", "doctor", "load", "predict", "attention", "compare"} <= used and len(
        NOTEBOOKS
    ) == 3


@pytest.mark.full
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    book = nbformat.read(path, 4)
    client.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
