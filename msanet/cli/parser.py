"""What the command lines of all commands have in common."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from msanet import logs
from msanet.cli.commands import COMMANDS
from msanet.errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """argparse, with errors in the form that all our errors have: one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        unknown, _, words = message.partition("unrecognized arguments: ")
        option = words.split("=")[0].split(" ")[0]
        if not unknown and option.startswith("--"):
            known = [
                name for name in self._option_string_actions if name.startswith("--") and not name.startswith("--local")
            ]
            raise UserError("MSA-CLI-001", f"unknown option '{option}'; {nearest(option, known)}", setting=option)
        raise UserError("MSA-CLI-001", f"{message}; see {self.prog} --help")


def new_parser(command: str, example: str, details: str = "", name: str = "") -> Parser:
    """The parser of a command, with the options that all commands have.

    Args:
        command: Its name, one of COMMANDS.
        example: What follows `msanet ` in the example of its help.
        details: Printed after the options.
        name: Words after the command's, such as a dataset's.
    """
    parser = Parser(
        prog=f"msanet {command} {name}".rstrip(),
        description=f"{COMMANDS[command][0].upper()}{COMMANDS[command][1:]}.",
        epilog=f"Example:\n  msanet {example}\n\n{details}".rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Appended by `deepspeed` and, with a hyphen, by torch.distributed.launch; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    levels = f"log from this level on: {', '.join(logs.LEVELS)} (default info)"
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", metavar="LEVEL", help=levels)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the words after the command's name (the process's own unless given), and log as they say."""
    arguments = parser.parse_intermixed_args(argv)
    logs.configure(arguments.log_level)
    return arguments


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `minimum` on."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= minimum):
            raise argparse.ArgumentTypeError(f"found '{text}', expected a number of {minimum} or more")
        return int(text)

    return number


def option_value(arguments: argparse.Namespace, option: str) -> Any:
    """The value of an option such as `--device-memory`."""
    return getattr(arguments, option.removeprefix("--").replace("-", "_"))


def require_positive(arguments: argparse.Namespace, *options: str) -> None:
    """Raise UserError for the first of these options whose value is given and not a finite number above 0."""
    for option in options:
        value = option_value(arguments, option)
        if value is not None and not 0 < value < math.inf:
            raise UserError("MSA-CLI-003", f"{option} is {value:g}, expected a number above 0; fix it", setting=option)
