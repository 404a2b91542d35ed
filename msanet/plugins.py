"""Objects that users name: `package.module:NAME` or `path/to/file.py:NAME`.

Imported only when a user's own settings name them; nothing that is downloaded can.
"""

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from msanet.errors import UserError, nearest

_loaded_files: dict[str, Path] = {}  # by the name of the module
_trusted: set[str] = set()


class PluginError(Exception):
    """Why a module was not imported, as a clause that follows its name."""


class PluginNotFound(PluginError):
    """There is no such module, file or attribute."""


def load_plugin(name: str, needs_callable: bool = True) -> Any:
    """The object of that name, which has to be callable unless told otherwise.

    Raises:
        PluginNotFound: There is none.
        PluginError: Its module could not be imported.
    """
    module, _, attribute = name.rpartition(":")
    return _attribute(_load_module(module), attribute, needs_callable)


class LoadedFiles(MetaPathFinder):
    """The files that this process has imported by their path.

    Another process that unpickles this object before others can unpickle theirs: it imports such a file when it is needed.
    """

    def __init__(self, files: Mapping[str, Path] | None = None) -> None:
        self.files = dict(_loaded_files if files is None else files)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """See importlib."""
        file = self.files.get(fullname)
        return None if file is None else importlib.util.spec_from_file_location(fullname, file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _find_files, (self.files,)


def _find_files(files: Mapping[str, Path]) -> LoadedFiles:
    finder = LoadedFiles(files)
    sys.meta_path.append(finder)
    return finder


def require_plugin(name: str, setting: str) -> Any:
    """The callable that a setting names. Raises UserError that names the setting."""
    if ":" not in name:
        message = f"{setting} names '{name}', expected package.module:NAME or path/to/file.py:NAME; fix the name"
        raise UserError("MSA-CONFIG-651", message, setting=setting)
    try:
        return load_plugin(name)
    except PluginNotFound as error:
        raise UserError("MSA-CONFIG-651", f"{setting} names '{name}', {error}", setting=setting) from None
    except PluginError as error:
        raise UserError("MSA-CONFIG-652", f"{setting} names '{name}', {error}", setting=setting) from error


def trust(name: str) -> None:
    """The user has named this code: in settings, by `--plugin`, or as an argument in Python."""
    _trusted.add(_canonical(name))


def is_trusted(name: str) -> bool:
    """Whether the user has named this code in this process."""
    return _canonical(name) in _trusted


def _canonical(name: str) -> str:
    module, _, attribute = name.rpartition(":")
    return f"{Path(module).resolve()}:{attribute}" if module.endswith(".py") else name


def first_line(error: BaseException) -> str:
    """The start of an exception's message, for a sentence."""
    return " ".join(str(error).split())[:200] or "no message"


def _load_module(module: str) -> ModuleType:
    try:
        return _load_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    except (PluginError, UserError):
        raise
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            found = f"and there is no module '{error.name}'; install it, or give path/to/file.py:NAME"
            raise PluginNotFound(found) from None
        raise _import_failed(error) from error
    except Exception as error:  # whatever a user's module does
        raise _import_failed(error) from error


def _import_failed(error: Exception) -> PluginError:
    return PluginError(f"whose import raised {type(error).__name__}: {first_line(error)}; fix that module")


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginNotFound(f"and the file '{path}' does not exist; check the path")
    full = f"msanet_user_{path.stem}_{zlib.crc32(str(path.resolve()).encode())}"
    if full in sys.modules:
        return sys.modules[full]
    spec = importlib.util.spec_from_file_location(full, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module  # dataclasses and pickle look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[full]
        raise
    _loaded_files[full] = path.resolve()
    return module


def _attribute(module: ModuleType, attribute: str, needs_callable: bool) -> Any:
    found = getattr(module, attribute, None)
    if found is None or (needs_callable and not callable(found)):
        known = sorted(
            name
            for name, value in vars(module).items()
            if (callable(value) or not needs_callable) and not name.startswith("_")
        )
        what = "is not callable" if found is not None else "does not exist"
        place = _loaded_files.get(module.__name__, module.__name__)
        raise PluginNotFound(f"and '{attribute}' {what} in {place}; {nearest(attribute, known)}")
    return found
