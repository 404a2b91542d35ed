"""Tests see what is logged as commands print it."""

import logging
from collections.abc import Iterator

import pytest

from msanet import logs


@pytest.fixture(autouse=True)
def console() -> Iterator[None]:
    """Log to stderr, as commands do."""
    logger = logging.getLogger("msanet")
    before = logger.propagate, list(logger.handlers)
    logs.configure()
    yield
    logger.propagate, logger.handlers = before
