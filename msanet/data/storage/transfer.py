"""Transfers of bytes from afar: one attempt, what may pass by itself, and trying until the deadline.

A transport makes one attempt at a transfer. What may pass by itself is a TransientError, after which `download_with_retries` tries again from
the bytes that came; what will not pass is a UserError at once.
"""

import random
import sys
import time
from dataclasses import dataclass, field
from typing import Protocol

from msanet.errors import UserError

_LEAST = 2.0  # seconds that an attempt gets however late it is
_PAUSES = (0.1, 20.0)  # seconds between attempts: first and longest
_told: set[str] = set()


class TransientError(Exception):
    """What may pass by itself. pause: seconds to wait, where the server said so."""

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
        return min(most, max(self.until - time.monotonic(), _LEAST))


class Transport(Protocol):
    """A remote folder. location: its address, without passwords."""

    location: str

    def attempt(self, transfer: Transfer) -> None:
        """Add to the transfer's data and return when it is whole, or where the file ends. Raises TransientError or UserError."""
        ...

    def recheck(self, file: str) -> None:
        """Bytes of this file turned out wrong: let the next attempt see whether it changed."""
        ...


def download_with_retries(transport: Transport, transfer: Transfer, deadline: float) -> bytearray:
    """Attempt a transfer until it is whole. deadline: what the user set, for the sentence that says it has passed."""
    address = f"{transport.location}/{transfer.file}"
    begun, attempts, pause = time.monotonic(), 0, _PAUSES[0]
    while True:
        before = len(transfer.data)
        attempts += 1
        try:
            transport.attempt(transfer)
            return transfer.data
        except TransientError as fault:
            pause = _PAUSES[0] if len(transfer.data) > before else min(2 * pause, _PAUSES[1])
            now = time.monotonic()
            left = transfer.until - now
            wait = min(random.uniform(pause / 2, pause), left) if fault.pause is None else fault.pause
            if left <= 0 or wait > left:
                wanted = "" if transfer.stop is None else f" of {transfer.stop - transfer.start}"
                raise UserError(
                    "MSA-DATA-028",
                    f"'{address}' could not be read within storage.download_timeout_seconds={deadline:g} s: {len(transfer.data)}{wanted} "
                    f"bytes came in {attempts} attempts over {now - begun:.0f} s, at last {fault}; check the server and the "
                    "network, then start again",
                    setting="storage.download_timeout_seconds",
                ) from None
            if now - begun > 10 and transport.location not in _told:
                _told.add(transport.location)
                print(f"waiting for '{address}': {fault}", file=sys.stderr, flush=True)
        time.sleep(wait)
