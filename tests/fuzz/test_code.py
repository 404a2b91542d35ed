"""What the code itself never does with text that may come from others."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(path for folder in ("msanet", "sharding", "launcher", "jobs") for path in (ROOT / folder).rglob("*.py"))
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.full_load",
    "yaml.unsafe_load",
}
MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}
LOADERS = {"yaml.load": "msanet/documents.py"}
"""Calls that only one file may make: there, with a SafeLoader."""


def faults(source: str, file: str) -> list[str]:
    """What a file does that none may."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if isinstance(node.func, ast.Name) and name in BUILTINS or name in CALLS or LOADERS.get(name, file) != file:
            found.append(name)
        shell = [
            keyword for keyword in node.keywords if keyword.arg == "shell" and ast.unparse(keyword.value) != "False"
        ]
        allowed = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
        found += [f"{name}({ast.unparse(keyword.value)})" for keyword in (*shell, *allowed)]
        if name == "Image.open" and "formats" not in {keyword.arg for keyword in node.keywords}:
            found.append("Image.open of any format: for EPS it starts a program")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_becomes_code(path: Path) -> None:
    assert faults(path.read_text(), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "yaml.load(x, Loader)",
        "yaml.unsafe_load(x)",
        "np.load(x, allow_pickle=True)",
        "import marshal",
        "Image.open(x)",
    ],
)
def test_the_faults_would_be_found(line: str) -> None:
    assert len(faults(line, "x.py")) == 1
