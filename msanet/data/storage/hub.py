"""Addresses and the token of the Hugging Face Hub; its files are read like those of any HTTP server."""

import os
from pathlib import Path
from urllib.parse import quote, unquote

from msanet.errors import UserError

_KINDS = ("datasets", "spaces")  # anything else is a model's repository, as in huggingface_hub


def hub_address(location: str) -> str:
    """The HTTP address of `hf://[datasets/]OWNER/NAME[@REVISION][/FOLDER]` at HF_ENDPOINT.

    Raises:
        UserError: It names no repository.
    """
    parts = location.removeprefix("hf://").strip("/").split("/")
    kind = [parts.pop(0)] if parts[0] in _KINDS else []
    if len(parts) < 2 or not all(parts):
        raise UserError(
            "MSA-DATA-025",
            f"'{location}' names no repository of the Hub, expected hf://datasets/OWNER/NAME[@REVISION][/FOLDER]; fix data.path",
            setting="data.path",
        )
    owner, (name, _, revision), folder = parts[0], parts[1].partition("@"), parts[2:]
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    # A revision such as refs%2Fpr%2F1 stays one part of the address.
    repository = [*kind, owner, name, "resolve", quote(unquote(revision) or "main", safe=""), *map(quote, folder)]
    return "/".join([endpoint, *repository])


def hub_token() -> str | None:
    """HF_TOKEN, or what `hf auth login` has stored."""
    token = os.environ.get("HF_TOKEN")
    if token is None:
        home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
        path = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
        token = path.read_text(encoding="utf-8") if path.is_file() else ""
    return token.strip() or None
