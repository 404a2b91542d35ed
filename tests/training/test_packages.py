"""The sub-packages of training use one another in one direction only."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from conftest import REPOSITORY

TRAINING = REPOSITORY / "msanet" / "training"


def used_by(package: Path) -> set[str]:
    """The other sub-packages of msanet.training that the files of this one import."""
    trees = [ast.parse(path.read_text()) for path in package.glob("*.py")]
    froms = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [node.module.split(".") + [node.names[0].name] for node in froms if node.module]
    return {name[2] for name in names if name[:2] == ["msanet", "training"] and (TRAINING / name[2]).is_dir()} - {
        package.name
    }


def test_imports_between_sub_packages_form_no_circle() -> None:
    packages = [path.parent for path in TRAINING.glob("*/__init__.py")]
    assert len(packages) >= 5
    order = list(TopologicalSorter({package.name: used_by(package) for package in packages}).static_order())
    assert order.index("engine") < order.index("checkpoint")
