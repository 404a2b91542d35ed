"""The client of the Hub, and its errors in our form."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msanet.data.storage.hub import hub_token
from msanet.errors import UserError
from msanet.secrets import without_secrets
from msanet.telemetry import disable_telemetry

_REPOSITORY = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]{0,199}", re.ASCII)
_NETWORK_LIBRARIES = ("httpx", "httpcore", "requests", "urllib3")  # by version of huggingface_hub


def endpoint() -> str:
    """The address of the Hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_client() -> Any:
    """`huggingface_hub.HfApi` for the endpoint and the token of the environment. Raises UserError without the package."""
    disable_telemetry()
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars, logging
    except ImportError as error:
        raise UserError(
            "MSA-HUB-009",
            f"push and pull need the package {error.name}, which is not installed; run: pip install 'msanet[hub]'",
        ) from error
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    return huggingface_hub.HfApi(endpoint=endpoint(), token=hub_token() or False, library_name="msanet")


def parse_repository(text: str, setting: str, revision: bool = False) -> tuple[str, str | None]:
    """(OWNER/NAME, REVISION or None). Raises UserError.

    Args:
        text: What the user has written.
        setting: The option it stands in.
        revision: Whether it may end in @REVISION.
    """
    name, at, found = text.removeprefix("hf://").partition("@")
    is_valid = _REPOSITORY.fullmatch(name) and ".." not in text and "--" not in name and not name.endswith(".git")
    if not is_valid or (at and not (revision and _REVISION.fullmatch(found))):
        form = "OWNER/NAME or OWNER/NAME@REVISION" if revision else "OWNER/NAME"
        raise UserError(
            "MSA-HUB-001", f"'{text}' is not a repository of the Hub, expected {form}; fix it", setting=setting
        )
    return name, found or None


def require_revision(text: str) -> None:
    """Raise UserError unless it may be a branch's name."""
    if not _REVISION.fullmatch(text) or ".." in text:
        raise UserError(
            "MSA-HUB-001", f"--revision is '{text}', expected the name of a branch; fix it", setting="--revision"
        )


@contextmanager
def hub_errors(doing: str, effect: str) -> Iterator[None]:
    """Raise UserError instead of what huggingface_hub raises.

    Args:
        doing: What is going on, such as `pushing to OWNER/NAME`.
        effect: What its failure leaves, such as `nothing was committed`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = _explain(error, f"{doing} failed", effect)
        if found is None:
            raise
        raise found from error


def _explain(error: BaseException, what: str, effect: str) -> UserError | None:
    """The error that a user sees, None for one that is not the Hub's or the network's."""
    again = f"{effect}; run the same command again"
    for cause in _causes(error):
        why = f"{what} ({_reason(cause)})"
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if type(cause).__name__ in ("RepositoryNotFoundError", "RevisionNotFoundError") or status == 404:
            return UserError(
                "MSA-HUB-003", f"{why}: no such repository or revision for this token; check its name, or HF_TOKEN"
            )
        if status in (401, 403):
            return UserError(
                "MSA-HUB-002", f"{why}: the token is missing or does not allow it; set HF_TOKEN to one that does"
            )
        if status is not None:
            return UserError("MSA-HUB-005", f"{why}; {again}")
        is_network = type(cause).__module__.partition(".")[0].rstrip("0123456789") in _NETWORK_LIBRARIES
        if is_network or isinstance(cause, ConnectionError | TimeoutError):
            return UserError("MSA-HUB-004", f"{why}: '{endpoint()}' cannot be reached, or not now; {again}")
    if isinstance(error, OSError) and error.errno is not None:
        return None  # a full disk, say
    if isinstance(error, ValueError | RuntimeError | OSError):
        return UserError("MSA-HUB-005", f"{what} ({_reason(error)}); {again}")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _reason(error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    text = " ".join(without_secrets(str(getattr(error, "server_message", None) or error)).split())[:160]
    return " ".join(filter(None, [f"HTTP {status}" if status else "", text or type(error).__name__])).rstrip(".")
