"""Logging of a job of many ranks: one logger a module, rank 0 on the console, every rank in a file of its own.

Modules take `logging.getLogger(__name__)`. On the console a record of another rank than 0 shows only if it is an error, or
was logged with `extra=EVERY_RANK`; `once` logs a message a single time per process. Commands call `configure`, and a training
`add_rank_file`; without either, Python's own defaults hold, so that `import msanet` changes nothing.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from msanet.secrets import without_secrets

T = TypeVar("T")

LEVELS = ("debug", "info", "warning", "error")
EVERY_RANK = {"every_rank": True}
"""`extra` of a record that the console shows whichever rank logs it."""

_ROOT = logging.getLogger("msanet")
_seen: set[str] = set()


def configure(level: str = "info") -> None:
    """Log to stderr from `level` (one of LEVELS) on. A second call changes the level."""
    _ROOT.setLevel(logging.DEBUG)
    _ROOT.propagate = False
    for handler in [handler for handler in _ROOT.handlers if isinstance(handler, _ConsoleHandler)]:
        _ROOT.removeHandler(handler)
    console = _ConsoleHandler(level.upper())
    console.addFilter(_shows_on_console)
    console.setFormatter(_ConsoleFormatter())
    _ROOT.addHandler(console)
    logging.getLogger("sharding").parent = _ROOT


def add_rank_file(path: Path) -> None:
    """Append everything this rank logs to a file, with times. A disk that is full costs lines, never the run."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    handler = _RankFileHandler(path, encoding="utf-8", errors="backslashreplace", delay=True)
    handler.setFormatter(_FileFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _ROOT.addHandler(handler)


def remove_rank_files() -> None:
    """Close what `add_rank_file` opened, so that another run in this process gets files of its own."""
    for handler in [handler for handler in _ROOT.handlers if isinstance(handler, _RankFileHandler)]:
        _ROOT.removeHandler(handler)
        with suppress(OSError):  # a full disk, again
            handler.close()


def record_error(error: BaseException) -> None:
    """Write what ends a run to this rank's files alone: the console shows it later, where there is one.

    Args:
        error: With a `code`, as of a UserError, only its sentence is written, else also its traceback.
    """
    code = getattr(error, "code", None)
    message = f"{error} [{code}]" if code else f"ended by {type(error).__name__}"
    details = None if code else (type(error), error, error.__traceback__)
    record = _ROOT.makeRecord(_ROOT.name, logging.ERROR, __file__, 0, message, (), details)
    for handler in _ROOT.handlers:
        if isinstance(handler, _RankFileHandler):
            handler.handle(record)


def once(logger: logging.Logger, level: int, message: str, key: str | None = None) -> None:
    """Log on any rank, unless the message, or another with the same key, was logged by this before in this process."""
    if (key or message) not in _seen:
        _seen.add(key or message)
        logger.log(level, message, extra=EVERY_RANK)


class ProgressBar:
    """A bar where stderr is a terminal; elsewhere, such as in a log, a line now and then.

    Args:
        total: Steps in all, or None if unknown.
        initial: Steps done before.
        interval: Seconds between two lines where there is no bar.
        disable: Show nothing, as on ranks other than 0.
    """

    def __init__(
        self,
        total: int | None,
        description: str,
        unit: str = "item",
        initial: int = 0,
        interval: float = 30.0,
        disable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._description, self._unit = total, description, unit
        self._done, self._interval, self._clock = initial, interval, clock
        shows_bar = not disable and sys.stderr is not None and sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=description, unit=unit, initial=initial, leave=False) if shows_bar else None
        self._logs = not disable and self._bar is None
        self._last = clock()

    def update(self, count: int = 1) -> None:
        """`count` further steps are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._logs and self._clock() - self._last >= self._interval:
            self._log()

    def report(self, values: str) -> None:
        """The newest values: behind the bar, or with the position in a line of the log."""
        if self._bar is not None:
            self._bar.set_postfix_str(values, refresh=False)
        elif self._logs:
            self._log(f", {values}")

    def _log(self, more: str = "") -> None:
        self._last = self._clock()
        total = f" of {self._total}" if self._total is not None else ""
        units = f"{self._unit.removesuffix('s')}s"
        logging.getLogger(__name__).info(f"{self._description}: {self._done}{total} {units}{more}")

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def track(
    items: Iterable[T], description: str, total: int | None = None, unit: str = "item", disable: bool = False
) -> Iterator[T]:
    """The same items, with a `ProgressBar`."""
    with ProgressBar(total, description, unit, disable=disable) as bar:
        for item in items:
            yield item
            bar.update()


def _rank() -> int:
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdigit() else 0


def _shows_on_console(record: logging.LogRecord) -> bool:
    return _rank() == 0 or record.levelno >= logging.ERROR or getattr(record, "every_rank", False)


class _ConsoleHandler(logging.Handler):
    """To stderr in one write, past the buffer that an interrupted print may hold: safe in signal handlers and threads."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = without_secrets(self.format(record)) + "\n"
            if sys.stderr is not None and sys.stderr.isatty():
                tqdm.write(text, file=sys.stderr, end="")  # above a bar
                return
            sys.stderr.flush()
            os.write(sys.stderr.fileno(), text.encode(errors="backslashreplace"))
        except (OSError, ValueError, AttributeError, RuntimeError):  # a terminal or pipe that is gone
            with suppress(Exception):
                print(text, end="", file=sys.stderr, flush=True)  # where stderr is no file, as under pytest's capture


class _ConsoleFormatter(logging.Formatter):
    """`12:03:44 warning: MESSAGE`; information has no level."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _FileFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class _RankFileHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk: the line is lost, the next one is tried again."""
