"""MSANet at scale: a training system for semantic segmentation.

The functions and classes below are the Python API (docs/python.md). Each is imported when it is used for the first time: `import
msanet` itself loads neither torch nor any other large library, and changes nothing in the process.

    run = msanet.train("camvid", data="shards", dir="run", trainer={"steps": 100})
    label_HW = run.load().predict("photo.jpg")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msanet.api.evaluation import Evaluation, evaluate, score
    from msanet.api.examination import doctor
    from msanet.api.model import Model, export, load
    from msanet.api.packing import pack
    from msanet.api.training import Run, train
    from msanet.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "Evaluation",
    "Model",
    "Run",
    "UserError",
    "doctor",
    "evaluate",
    "export",
    "load",
    "pack",
    "score",
    "train",
    "versions",
]
_MODULES = {
    **dict.fromkeys(("Evaluation", "evaluate", "score"), "msanet.api.evaluation"),
    **dict.fromkeys(("Model", "export", "load"), "msanet.api.model"),
    **dict.fromkeys(("Run", "train"), "msanet.api.training"),
    "doctor": "msanet.api.examination",
    "pack": "msanet.api.packing",
    "UserError": "msanet.errors",
}


def __getattr__(name: str) -> Any:
    """A member of the API, imported now (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'msanet' has no attribute '{name}'")
    from importlib import import_module

    from msanet.api.process_state import restored_environment

    with restored_environment():
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def versions(*packages: str) -> dict[str, str]:
    """Of packages, as they are installed; msanet itself may be found by PYTHONPATH alone."""
    from importlib.metadata import version

    return {name: __version__ if name == "msanet" else version(name) for name in packages}
