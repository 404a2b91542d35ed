"""`msanet recipes`, and where the shipped files are."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import REPOSITORY
from msanet.cli.main import main
from msanet.config.recipes import RECIPES, SWEEPS, find_sweep, list_recipes
from support.errors import error_codes

FOLDERS = ((RECIPES, "recipes"), (SWEEPS, "sweeps"))
SHIPPED = {folder: sorted((REPOSITORY / "jobs" / name).rglob("*.yaml")) for folder, name in FOLDERS}


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_every_file_says_what_it_needs_and_gives(folder: Path) -> None:
    found = list_recipes(folder)
    assert [recipe.path.resolve() for recipe in found] == SHIPPED[folder]
    for recipe in found:
        assert recipe.summary and recipe.needs and recipe.gives, recipe.name


def test_the_list_and_one_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {recipe.name}\n" in listed for folder in SHIPPED for recipe in list_recipes(folder))
    assert main(["recipes", "msanet/voc"]) == 0
    assert capsys.readouterr().out == (REPOSITORY / "jobs/recipes/msanet/voc.yaml").read_text()
    assert main(["recipes", "msanet", "--sweep"]) == 0
    assert capsys.readouterr().out == find_sweep("msanet").read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["recipes", "camvit"])
    said = capsys.readouterr().err
    assert error_codes(said) == ["MSA-CONFIG-001"] and "did you mean 'camvid'?" in said


def test_recipes_and_the_command_are_in_the_wheel(tmp_path: Path) -> None:
    """Built from what git has, without network: setuptools is there."""
    pytest.importorskip("setuptools", minversion="77")
    clone = ["git", "clone", "--quiet", str(REPOSITORY), str(tmp_path / "clone")]
    if subprocess.run(clone, capture_output=True).returncode:
        pytest.skip("not a git repository")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
    ]
    subprocess.run([*pip, str(tmp_path / "clone")], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, files in SHIPPED.items():
        top = REPOSITORY / "jobs" / ("recipes" if folder == RECIPES else "sweeps")
        assert {f"msanet/{folder.name}/{file.relative_to(top)}" for file in files} <= names
    assert "msanet/cli/main.py" in names and any(name.endswith("entry_points.txt") for name in names)
