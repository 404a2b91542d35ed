"""How fuzz tests run: the same examples each time, with bounds on memory and time. MSANET_FUZZ_EXAMPLES=20: 20 times as many."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

_TIMES = int(os.environ.get("MSANET_FUZZ_EXAMPLES", "1"))
_HANGS = 300 * _TIMES  # seconds
_MEMORY = 400 * 2**20
"""Bytes that a module of tests may add to what the process took at most before, unless it has its own MEMORY."""

settings.register_profile(
    "fuzz",
    max_examples=60 * _TIMES,
    deadline=None,
    derandomize=_TIMES == 1,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # an example as it was found, rather than minutes of making it small
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fuzz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that hangs ends soon, with a traceback that says where."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(_HANGS))


@pytest.fixture(autouse=True, scope="module")
def _no_blow_up(request: pytest.FixtureRequest, shards: object) -> Iterator[None]:
    """Whatever the input claims to be, memory stays small. shards: made before the count begins."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert added < getattr(request.module, "MEMORY", _MEMORY), f"{added / 1e6:.0f} MB"
