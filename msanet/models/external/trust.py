"""Whose code may be imported: a package or file of the user's is, only after the user has named it."""

from pathlib import Path

from msanet.errors import UserError

LIBRARIES = ("smp", "hf", "timm", "torchvision")
"""Prefixes of names that load a known library, never code that a name chooses."""

_trusted: set[str] = set()


def is_user_code(name: str) -> bool:
    """Whether building the network of this name imports a package or file that the name itself chooses."""
    return ":" in name and name.partition(":")[0] not in LIBRARIES


def trust(name: str) -> None:
    """The user has named this network: in a config, by `--plugin`, or as an argument in Python."""
    _trusted.add(_canonical(name))


def require_trust(name: str, origin: str) -> None:
    """Raise UserError if `origin`, a file, asks for code that the user has not named."""
    if is_user_code(name) and _canonical(name) not in _trusted:
        raise UserError(
            "MSA-MODEL-501",
            f"'{origin}' needs '{name}', which is code that was not named on the command line; "
            f"if you trust it, add --plugin {name}",
            setting="--plugin",
        )


def _canonical(name: str) -> str:
    module, _, attribute = name.rpartition(":")
    return f"{Path(module).resolve()}:{attribute}" if module.endswith(".py") else name
