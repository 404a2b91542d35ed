"""The house holds: who may import whom, and how long things may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("msanet", "sharding", "launcher") for path in (ROOT / folder).rglob("*.py"))

# Lower may not import higher. `sharding` stands beside the library and takes only what it shares with msanet.data.
LEVELS: dict[str, int] = {
    "msanet.documents": 0,
    "msanet.errors": 0,
    "msanet.files": 0,
    "msanet.distributed.parent_watchdog": 0,
    "msanet.processes": 0,
    "msanet.distributed.heartbeat": 0,
    "msanet.distributed.rendezvous": 0,
    "msanet.secrets": 0,
    "msanet.config": 1,
    "msanet.distributed": 1,
    "msanet.datasets": 1,
    "msanet.data": 2,
    "msanet.models": 2,
    "msanet.losses": 2,
    "msanet.report": 2,
    "msanet.evaluation": 3,
    "msanet.training": 4,
    "msanet.demo": 4,
    "msanet.doctor": 5,
    "msanet.sweep": 5,
    "msanet.cli": 6,
    "launcher": 7,
}
SHARED_WITH_SHARDING = (
    "msanet.documents",
    "msanet.errors",
    "msanet.files",
    "msanet.processes",
    "msanet.datasets",
    "msanet.data.manifest",
    "msanet.data.image.codec",
    "msanet.report.palette",
)
SIDE_BY_SIDE = {("msanet.data", "msanet.models"), ("msanet.models", "msanet.data"), ("msanet.report", "msanet.models")}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("msanet", "sharding", "launcher", "jobs")}


def layer(name: str) -> str | None:
    parts = name.split(".")
    return next((key for key in (".".join(parts[:2]), parts[0]) if key in LEVELS), None)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    own = module_name(path)
    for name in imports(path):
        if own == "sharding.__main__":
            assert name.startswith(("msanet.cli.main", "msanet.errors", "sharding")), f"{own} imports {name}"
            continue
        if own.startswith("sharding"):
            assert name.startswith(("sharding", *SHARED_WITH_SHARDING)), f"{own} imports {name}"
            continue
        mine, theirs = layer(own), layer(name)
        if theirs is None or mine is None or mine == theirs:
            assert not name.startswith("sharding") or mine == "msanet.cli", f"{own} imports {name}"
            continue
        assert LEVELS[theirs] <= LEVELS[mine], f"{own} imports {name}, which stands above it"
        assert (mine, theirs) not in SIDE_BY_SIDE, f"{own} imports {name}, which stands beside it"


def test_models_know_nothing_of_data_or_distribution() -> None:
    for path in (ROOT / "msanet" / "models").glob("*.py"):
        text = path.read_text()
        assert "deepspeed" not in text.replace("data, distribution or DeepSpeed", "").lower(), path
        assert "torch.distributed" not in text, path


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 320, "aim below 300 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 55, f"{node.name}: aim below 50 lines"
    if path.parent.name == "launcher":
        assert len(text.splitlines()) <= 60, "an entry point tells the story, no more"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_everything_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_no_file_shadows_a_library() -> None:
    """`deepspeed launcher/train.py` puts launcher/ first on sys.path."""
    import sys

    taken = set(sys.stdlib_module_names) | {"deepspeed", "torch", "webdataset", "ray", "numpy", "yaml", "tqdm"}
    assert not {path.stem for path in (ROOT / "launcher").glob("*.py")} & taken
