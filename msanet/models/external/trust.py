"""Whose code may be imported: a package or file of the user's is, only after the user has named it."""

from msanet.errors import UserError
from msanet.plugins import is_trusted, trust

__all__ = ["LIBRARIES", "is_user_code", "require_trust", "trust"]

LIBRARIES = ("smp", "hf", "timm", "torchvision")
"""Prefixes of names that load a known library, never code that a name chooses."""


def is_user_code(name: str) -> bool:
    """Whether building the network of this name imports a package or file that the name itself chooses."""
    return ":" in name and name.partition(":")[0] not in LIBRARIES


def require_trust(name: str, origin: str) -> None:
    """Raise UserError if `origin`, a file, asks for code that the user has not named."""
    if is_user_code(name) and not is_trusted(name):
        raise UserError(
            "MSA-MODEL-501",
            f"'{origin}' needs '{name}', which is code that was not named on the command line; "
            f"if you trust it, add --plugin {name}",
            setting="--plugin",
        )
