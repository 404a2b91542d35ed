"""Transfers of bytes from a server: one attempt, errors that may pass, and trying until the deadline.

A transport makes one attempt at a transfer. An error that may pass is a TransientError, after which
`download_with_retries` tries again from the bytes that came; one that will not pass is a UserError at once.
"""

import logging
import random
import time
from dataclasses import dataclass, field
from typing import Protocol

from msanet.errors import UserError
from msanet.logs import once

logger = logging.getLogger(__name__)

_MIN_ATTEMPT_SECONDS = 2.0  # seconds that an attempt gets however late it is
_PAUSE_SECONDS = (0.1, 20.0)  # seconds between attempts: first and longest


class TransientError(Exception):
    """An error that may pass by itself. pause: seconds to wait, where the server said so."""

    def __init__(self, what: str, pause: float | None = None) -> None:
        super().__init__(what)
        self.pause = pause


@dataclass
class Transfer:
    """Bytes [start, stop) of a file on their way. until: of time.monotonic(); limit: bytes that the file may have."""

    file: str
    start: int
    stop: int | None
    until: float
    limit: int | None = None
    data: bytearray = field(default_factory=bytearray)

    @property
    def position(self) -> int:
        """Where in the file the next byte is to come from."""
        return self.start + len(self.data)

    def time_left(self, most: float) -> float:
        return min(most, max(self.until - time.monotonic(), _MIN_ATTEMPT_SECONDS))


class Transport(Protocol):
    """A remote folder. location: its address, without passwords."""

    location: str

    def attempt(self, transfer: Transfer) -> None:
        """Add to the transfer's data until it is complete or the file ends. Raises TransientError or UserError."""
        ...

    def recheck(self, file: str) -> None:
        """Bytes of this file turned out wrong: let the next attempt see whether it changed."""
        ...


def download_with_retries(transport: Transport, transfer: Transfer, deadline: float) -> bytearray:
    """Attempt a transfer until it is complete. deadline: what the user set, for the sentence that says it has passed."""
    address = f"{transport.location}/{transfer.file}"
    begun, attempts, pause = time.monotonic(), 0, _PAUSE_SECONDS[0]
    while True:
        before = len(transfer.data)
        attempts += 1
        try:
            transport.attempt(transfer)
            return transfer.data
        except TransientError as error:
            pause = _PAUSE_SECONDS[0] if len(transfer.data) > before else min(2 * pause, _PAUSE_SECONDS[1])
            now = time.monotonic()
            left = transfer.until - now
            wait = min(random.uniform(pause / 2, pause), left) if error.pause is None else error.pause
            if left <= 0 or wait > left:
                wanted = "" if transfer.stop is None else f" of {transfer.stop - transfer.start}"
                raise UserError(
                    "MSA-DATA-028",
                    f"'{address}' could not be read within storage.download_timeout_seconds={deadline:g} s: "
                    f"{len(transfer.data)}{wanted} "
                    f"bytes came in {attempts} attempts over {now - begun:.0f} s, last {error}; check the server and the "
                    "network, then start again",
                    setting="storage.download_timeout_seconds",
                ) from None
            if now - begun > 10:
                once(
                    logger,
                    logging.WARNING,
                    f"waiting for '{address}': {error}",
                    key=f"waiting for {transport.location}",
                )
        time.sleep(wait)
