"""`python -m msanet.training replay RUN/failure_dump/step-N`: do a step that went wrong again, on one process, and find where.

Exit code 0: it went wrong again, and the report says where. 1: it did not. 2: there is no such black box.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from msanet import distributed
from msanet.errors import UserError, user_errors
from msanet.training.nonfinite.failure_dump import FailureDump, read_failure_dump
from msanet.training.nonfinite.replay import Range, Replay, replay

_LARGEST = 5
"""Parameters that the report names, those with the largest values."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code.

    Raises SystemExit(2) after one sentence on stderr where the input is at fault.
    """
    with user_errors():
        args = _parser().parse_args(argv)
        box = read_failure_dump(args.failure_dump)
        found = _replay(box, args.rank)
        print(json.dumps(_plain(asdict(found)), indent=1, allow_nan=False) if args.json else _report(box, found))
    return 0 if found.is_reproduced else 1


def _replay(box: FailureDump, rank: int | None) -> Replay:
    """Of the rank that is asked for; or of the one where it went wrong, which is to be found where only gradients were."""
    if rank is not None and rank not in box.records:
        kept = ", ".join(map(str, box.records))
        raise UserError(f"--rank is {rank}, and the black box has the batches of ranks {kept}; choose one of these")
    candidates = [rank] if rank is not None else box.about.faulty[:1] or list(box.records)
    for candidate in candidates:
        found = replay(box, candidate, distributed.device())
        if found.is_reproduced:
            break
    return found


def _report(box: FailureDump, found: Replay) -> str:
    about, trace = box.about, found.trace
    lines = [
        f"step {about.step}, rank {found.rank}, world size {len(about.losses)}, {box.config.trainer.precision}, "
        f"{box.metadata.name} on {box.metadata.dataset}",
        f"samples: {', '.join(_name(sample) for sample in box.samples(found.rank))}",
        "",
        f"{'reproduced' if found.is_reproduced else 'not reproduced'}: the loss is {found.loss:.9g}, it was {found.recorded:.9g}",
    ]
    if trace.module and trace.output:
        lines.append(f"first output that is not finite: of {trace.module}, {_shown(trace.output)}")
        lines += [f"  its input: {_shown(trace.given)}"] if trace.given else []
    elif not math.isfinite(found.loss):
        lines.append("all outputs of the network are finite: it is the loss that is not")
    if trace.gradient:
        lines.append(f"first gradient that is not finite, from the loss backwards: {trace.gradient}")
    if not math.isfinite(found.loss):
        names = ", ".join(_name(sample) for sample in found.alone)
        lines.append(f"not finite with nothing beside them: {names or 'none of the samples'}")
    bad = [name for name, weight in found.weights.items() if weight.not_finite]
    largest = sorted(found.weights.items(), key=lambda item: _size(item[1]), reverse=True)[:_LARGEST]
    lines += ["", f"input: {_shown(found.inputs)}"]
    lines += [f"weights: {len(found.weights)} tensors, {len(bad)} with values that are not finite; the largest:"]
    lines += [f"  {name}: {_shown(weight)}" for name, weight in largest]
    versions = ", ".join(f"{name} {number}" for name, number in about.versions.items())
    return "\n".join([*lines, "", *found.remarks, f"the run had {versions}"])


def _name(sample: tuple[int, int, str | None]) -> str:
    epoch, number, key = sample
    return f"{key or number} (epoch {epoch})"


def _shown(values: Range) -> str:
    if values.least is None:
        return f"none of {values.values:,} values is finite"
    bad = f"{values.not_finite:,} of {values.values:,} values are not finite, the others" if values.not_finite else ""
    return f"{bad or f'{values.values:,} values'} from {values.least:.4g} to {values.most:.4g}, mean {values.mean:.4g}"


def _size(values: Range) -> float:
    return math.inf if values.least is None or values.most is None else max(abs(values.least), abs(values.most))


def _plain(value: Any) -> Any:
    """What JSON has: null for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are our one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m msanet.training", description="What is done with a run beside training it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "Do a step that went wrong again, on one process, and say where its numbers stop being finite."
    command = commands.add_parser("replay", help=text, description=text)
    command.add_argument("failure_dump", type=Path, metavar="BLACKBOX", help="RUN/failure_dump/step-N")
    command.add_argument("--rank", type=int, help="whose batches (default: the first where it went wrong)")
    command.add_argument("--json", action="store_true", help="print JSON instead of a report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
