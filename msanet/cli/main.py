"""`msanet COMMAND ...`: finds the command, imports it, and ends with its exit code."""

import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from msanet import __version__
from msanet.cli.commands import COMMANDS, DISTRIBUTED, GROUPS, RESUMABLE
from msanet.errors import UserError, nearest, user_errors
from msanet.process_setup import prepare_process
from msanet.telemetry import disable_telemetry

EXIT_INTERRUPTED = 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run `msanet` with these words (the process's own unless given); returns the exit code. Raises SystemExit(2)."""
    disable_telemetry()
    if argv is None:
        prepare_process()
    words = list(sys.argv[1:] if argv is None else argv)
    with user_errors(should_print=is_first_rank):
        name, arguments = _split(words)
        if name is None:
            print(_help())
            return 0
        with interrupts_end_the_process():
            command = importlib.import_module(f"msanet.cli.{name}")
        try:
            with interrupts_end_the_process() if name in DISTRIBUTED else nullcontext():
                code: int = command.main(arguments)
        except KeyboardInterrupt:
            hint = "; run the same command again to continue" if name in RESUMABLE else ""
            print(f"interrupted{hint}", file=sys.stderr)
            code = EXIT_INTERRUPTED
    return code


def run_script(name: str) -> None:
    """The command `name` with this process's arguments, as the whole of a script."""
    prepare_process()
    sys.exit(main([name, *sys.argv[1:]]))


def is_first_rank(sentence: str) -> bool:
    """For `user_errors`: before there is a process group, rank 0 speaks for all. Without a whole environment all do."""
    is_complete = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    return os.environ.get("RANK", "0") == "0" or not is_complete or "[MSA-DIST-40" in sentence


def _split(words: list[str]) -> tuple[str | None, list[str]]:
    """The name of the command, or None for help, and its arguments."""
    launcher_options = ("--local_rank", "--local-rank")  # `deepspeed --module msanet train`
    by_launcher = [word for word in words[:1] if word.startswith(launcher_options)]
    words = words[len(by_launcher) :]
    if words[:1] == ["--version"]:
        print(f"msanet {__version__}")
        raise SystemExit(0)
    if not words or words[0] in ("-h", "--help", "help"):
        return None, []
    if words[0] not in COMMANDS:
        message = f"unknown command '{words[0]}'; {nearest(words[0], list(COMMANDS))}"
        raise UserError("MSA-CLI-002", message)
    return words[0], by_launcher + words[1:]


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: msanet COMMAND [--help] ...", "", "Training of semantic segmentation networks at scale.", ""]
    for title, commands in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {purpose}" for name, purpose in commands.items()), ""]
    return "\n".join([*lines, "Example: msanet demo", "Options of a command: msanet COMMAND --help"])


@contextmanager
def interrupts_end_the_process() -> Iterator[None]:
    """Meanwhile an interrupt (Ctrl-C) ends the process at once, without a traceback, unless a handler is installed.

    As an exception it would be raised in the middle of some import, and there are libraries that catch it and continue with
    half of NumPy.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # such as where a shell ignores interrupts
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
