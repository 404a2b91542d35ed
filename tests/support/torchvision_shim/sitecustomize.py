"""Lets torchvision be imported next to a PyTorch that it was not built for, as the CPU build of torch with PyPI's torchvision is.

Its C++ operators are then missing, and two of its modules, which describe them, would fail. Networks for segmentation need none.
Processes that tests start import this by its name if the folder is on PYTHONPATH.
"""

import sys
from types import ModuleType

for name in ("torchvision._meta_registrations", "torchvision._autograd_registrations"):
    sys.modules.setdefault(name, ModuleType(name))
