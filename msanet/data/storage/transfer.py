"""Transfers of bytes from a server, tried until the deadline.

A transport makes one attempt. After a TransientError `download_with_retries` continues from the bytes received so far;
an error that will not pass by itself is a UserError at once. See docs/decisions/0008.
"""

import logging
import random
import time
from dataclasses import dataclass, field
from typing import Protocol

from msanet.awake_clock import awake_clock
from msanet.errors import UserError
from msanet.logs import once

logger = logging.getLogger(__name__)

_MIN_ATTEMPT_SECONDS = 2.0  # seconds that an attempt gets, even after the deadline
_PAUSE_SECONDS = (0.1, 20.0)  # seconds between attempts: first and longest


class TransientError(Exception):
    """An error that may pass by itself. pause: seconds to wait, if the server said so."""

    def __init__(self, what: str, pause: float | None = None) -> None:
        super().__init__(what)
        self.pause = pause


@dataclass
class Transfer:
    """Bytes [start, stop) of a file, and those received so far.

    deadline: of `awake_clock`. limit: the most bytes that the file may have.
    """

    file: str
    start: int
    stop: int | None
    deadline: float
    limit: int | None = None
    data: bytearray = field(default_factory=bytearray)

    @property
    def position(self) -> int:
        """Where in the file the next byte comes from."""
        return self.start + len(self.data)

    def time_left(self, most: float) -> float:
        return min(most, max(self.deadline - awake_clock.now(), _MIN_ATTEMPT_SECONDS))


class Transport(Protocol):
    """A remote folder. location: its address, without passwords."""

    location: str

    def attempt(self, transfer: Transfer) -> None:
        """Add to the transfer's data until it is complete or the file ends. Raises TransientError or UserError."""
        ...

    def recheck(self, file: str) -> None:
        """Bytes of this file turned out to be wrong: check in the next attempt whether it changed."""
        ...


def download_with_retries(transport: Transport, transfer: Transfer, timeout: float) -> bytearray:
    """Attempt a transfer until it is complete. timeout: the user's setting, for the error when the deadline has passed."""
    address = f"{transport.location}/{transfer.file}"
    started, attempts, pause = awake_clock.now(), 0, _PAUSE_SECONDS[0]
    while True:
        before = len(transfer.data)
        attempts += 1
        try:
            transport.attempt(transfer)
            return transfer.data
        except TransientError as error:
            pause = _PAUSE_SECONDS[0] if len(transfer.data) > before else min(2 * pause, _PAUSE_SECONDS[1])
            elapsed, left = awake_clock.now() - started, transfer.deadline - awake_clock.now()
            wait = min(random.uniform(pause / 2, pause), left) if error.pause is None else error.pause
            if left <= 0 or wait > left:
                wanted = "" if transfer.stop is None else f" of {transfer.stop - transfer.start}"
                raise UserError(
                    "MSA-DATA-028",
                    f"'{address}' could not be read within storage.download_timeout_seconds={timeout:g} s: "
                    f"{len(transfer.data)}{wanted} bytes came in {attempts} attempts over {elapsed:.0f} s, last {error}; "
                    "check the server and the network, then start again",
                    setting="storage.download_timeout_seconds",
                ) from None
            if elapsed > 10:
                message = f"waiting for '{address}': {error}"
                once(logger, logging.WARNING, message, key=f"waiting for {transport.location}")
        time.sleep(wait)


def not_found(address: str, why: str = "") -> UserError:
    """The error for a file that the server does not have."""
    return UserError(
        "MSA-DATA-029", f"'{address}' does not exist{why}; fix data.path, or upload the file", setting="data.path"
    )


def access_denied(address: str, why: str, advice: str) -> UserError:
    """The error for missing or wrong credentials."""
    return UserError("MSA-DATA-030", f"'{address}' may not be read ({why}); {advice}", setting="data.path")


def changed(address: str, first: str | None, now: str) -> UserError:
    """The error for a file whose ETag is not that of the first read."""
    return UserError(
        "MSA-DATA-031",
        f"'{address}' changed while this run reads it (ETag {first}, now {now}); put the old file back, or start a new run "
        "and write new shards into a new folder",
    )


def too_short(address: str, size: object, start: int) -> UserError:
    """The error for a file that ends before the first requested byte."""
    return UserError(
        "MSA-DATA-033", f"'{address}' has {size} bytes, expected more than {start}; upload the shard again"
    )
