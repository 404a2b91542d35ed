"""The documentation: it builds without a warning, and its generated pages are those of the code."""

import html
import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")


@pytest.mark.parametrize("page", ["errors.md", "settings.md"])
def test_generated_page_is_up_to_date(page: str) -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == pages[page](), f"docs/{page} is outdated; run python docs/generate.py"


def test_every_error_code_is_listed() -> None:
    from msanet.error_catalog import CATALOG

    listed = re.findall(r"^\| `(MSA-\w+-\d{3})` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    assert listed and sorted(listed) == sorted(CATALOG)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as HTML, built strictly, or a skip."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install mkdocs-material 'mkdocstrings[python]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr[-5000:]
    return folder


def test_front_page_is_the_readme(site: Path) -> None:
    words = _words((site / "index.html").read_text(encoding="utf-8"))
    headings = re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings and all(heading.replace("`", "") in words for heading in headings)


def test_every_package_has_a_reference_page(site: Path) -> None:
    packages = [path.parent.name for path in (ROOT / "msanet").glob("*/__init__.py")]
    assert packages and all((site / "reference" / f"msanet.{name}.html").is_file() for name in packages)
    assert "consumed_samples" in (site / "reference" / "msanet.data.html").read_text(encoding="utf-8")


def test_architecture_has_its_figures(site: Path) -> None:
    assert (site / "architecture.html").read_text(encoding="utf-8").count('class="mermaid"') >= 4


def _words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())
