"""`msanet doctor`: what is wrong, or unwise, with a run's data and settings, before it costs GPU hours.

Each check is a function of plain values that returns diagnostics; `examination` gathers what they need.
"""

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """This package has the name of a function of the API, `msanet.doctor`, whose place it takes once it is imported."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from msanet.api.examination import doctor

        return doctor(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
