"""MkDocs hooks: pages that stand elsewhere in the repository, and the API reference, a page for each package.

A Markdown file outside docs/ is shown on the site through a line `<!-- include: ../README.md -->`, or as a page of its own
(`_PAGES`), so that its text stands once. Links that lead out of docs/ become links to those pages, or plain text.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
}
"""File in the repository -> page of the site."""
_INCLUDE = re.compile(r"<!-- include: \.\./([\w.-]+) -->")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_MERMAID = "javascripts/mermaid.min.js"
"""Draws the figures without a network where it is there; else the theme loads it from unpkg.com. From npm's package mermaid."""
_HIDDEN = {"sharding.street"}


def on_config(config: Any) -> Any:
    """Fill the decisions into the navigation, and append the reference pages."""
    for section in config["nav"]:
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else []:
                if "Decisions" in entry:
                    entry["Decisions"] = [f"decisions/{name}" for name in _decisions()]
    if (ROOT / "docs" / _MERMAID).is_file():
        config["extra_javascript"].append(_MERMAID)
    pages = [{name: f"reference/{name}.md"} for name in _packages()]
    config["nav"].append({"API reference": ["reference/index.md", *pages]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for name, page in _PAGES.items():
        if page != "index.md":
            text = (ROOT / name).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=_relink(text, "", page)))
    for name, modules in _packages().items():
        levels = {module: 1 if module == modules[0] else 2 for module in modules}
        text = "\n\n".join(f"::: {module}\n    options:\n      heading_level: {levels[module]}" for module in modules)
        files.append(File.generated(config, f"reference/{name}.md", content=text + "\n"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Include what stands elsewhere, and keep links inside the site."""
    source = page.file.src_uri
    text = _relink(markdown, posixpath.join("docs", posixpath.dirname(source)), source)
    return _INCLUDE.sub(lambda match: _relink((ROOT / match[1]).read_text(encoding="utf-8"), "", source), text)


def _relink(text: str, folder: str, page: str) -> str:
    """Links in a text that stands in `folder` of the repository, for a page of the site."""

    def target(match: re.Match[str]) -> str:
        image, label, link = match.groups()
        path, hash_sign, anchor = link.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, path))
        in_site = _PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if in_site is None:
            return label if label.startswith("`") else f"`{path}`" if label == path else f"{label} (`{path}`)"
        return f"{image}[{label}]({posixpath.relpath(in_site, posixpath.dirname(page) or '.')}{hash_sign}{anchor})"

    return _LINK.sub(target, text)


def _decisions() -> list[str]:
    names = {path.name for path in (ROOT / "docs" / "decisions").glob("*.md")}
    return ["index.md", *sorted(names - {"index.md"})]


def _packages() -> dict[str, list[str]]:
    """Package -> its public modules. Modules directly in `msanet` make one page."""
    packages: dict[str, list[str]] = {}
    for path in sorted([*(ROOT / "msanet").rglob("*.py"), *(ROOT / "sharding").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        is_private = any(part.startswith("_") and part != "__init__" for part in parts)
        if is_private or not path.read_text().strip() or any(module.startswith(hidden) for hidden in _HIDDEN):
            continue
        is_package = parts[-1] == "__init__" or len(parts) > 2
        packages.setdefault(".".join(parts[:2]) if is_package and len(parts) > 2 else parts[0], []).append(module)
    return packages
