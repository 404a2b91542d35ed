"""MSANet at scale: a training system for semantic segmentation."""

import os

__version__ = "0.1.0"

# torch's C++ prints a page of stack for each connection that breaks; msanet.distributed.heartbeat names the lost rank in one
# line. Read by torch when it is imported, so it is here.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def versions(*packages: str) -> dict[str, str]:
    """Of packages, as they are installed; msanet itself may be found by PYTHONPATH alone."""
    from importlib.metadata import version

    return {name: __version__ if name == "msanet" else version(name) for name in packages}
