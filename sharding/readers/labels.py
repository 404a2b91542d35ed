"""From the bytes of a label file to the dataset's own ids; MATLAB files. Images: mask_reader.py."""

import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from msanet.errors import UserError

Decode = Callable[[bytes, str], np.ndarray]
"""(a label's bytes, its name for errors) -> ids (H, W), integers as `DatasetSpec.train_ids` knows them; below 0: ignored.

It goes to worker processes, and its repr goes into the plan: a frozen dataclass, whose fields are all that its result
depends on, does both. Raises UserError where the bytes are at fault. One whose attribute `takes_size` is true also gets the
image's (height, width), for labels that do not say it.
"""


@contextmanager
def source_damage() -> Iterator[None]:
    """Damage found in the block is damage of the source."""
    try:
        yield
    except UserError as error:
        if error.code != "MSA-DATA-017":
            raise
        raise UserError("MSA-PACK-027", str(error)) from error


def from_mat(data: bytes, name: str, variable: str, take: Callable[[Any], np.ndarray]) -> np.ndarray:
    """What `take` makes of a `variable` of a MATLAB file, whose structs have their fields as attributes.

    Raises UserError if the file is damaged or `take` does not find in it what it looks for.
    """
    io_module = need("scipy.io", "scipy")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file, we say enough
            content = io_module.loadmat(io.BytesIO(data), variable_names=[variable], struct_as_record=False)
        return take(content[variable])
    except UserError:
        raise
    except Exception as error:  # scipy raises any kind where the bytes are not as it expects
        words = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(
            "MSA-PACK-028",
            f"'{name}' cannot be read ({words}; {len(data)} bytes), expected a MATLAB 5 file with "
            f"'{variable}' as the dataset's authors distribute it; replace the file",
        ) from error


def need(module: str, package: str) -> ModuleType:
    """A module of a package that only some datasets need. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            "MSA-PACK-029",
            f"the package {package} is not installed, expected it for this dataset's annotations; run: "
            f"pip install {package}",
        ) from error
