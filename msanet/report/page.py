"""What all HTML pages are made with: templates next to the module that fills them, everything escaped, one style sheet."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

_STYLE = Path(__file__).parent / "report.css"


def new_environment(folder: Path, **filters: Any) -> jinja2.Environment:
    """For the templates in `folder`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,  # for any suffix
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment


def style() -> Markup:
    """The style sheet of all pages."""
    return Markup(_STYLE.read_text(encoding="utf-8"))


def created() -> str:
    """The time now, as pages show it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
