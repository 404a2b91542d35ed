"""`msanet replay`: repeat a step of a failure dump on one process, and find where its numbers stop being finite."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from msanet import distributed
from msanet.cli.output import print_result
from msanet.cli.parser import new_parser, parse
from msanet.cli.run_arguments import add_plugin_argument
from msanet.errors import UserError
from msanet.training.nonfinite.failure_dump import FailureDump, read_failure_dump
from msanet.training.nonfinite.replay import Range, Replay, replay

_LARGEST = 5
"""Parameters that the report names, those with the largest values."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 if the step went wrong again, 1 if not."""
    details = "Exit code 0: it went wrong again, and the report says where. 1: it did not. 2: there is no such dump."
    parser = new_parser("replay", "replay RUN/failure_dump/step-00001234", details)
    parser.add_argument("failure_dump", type=Path, metavar="DUMP", help="RUN/failure_dump/step-N")
    parser.add_argument("--rank", type=int, help="whose batches (default: the first where it went wrong)")
    add_plugin_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    arguments = parse(parser, argv)
    dump = read_failure_dump(arguments.failure_dump)
    found = _replay(dump, arguments.rank)
    print_result(asdict(found) if arguments.json else _report(dump, found))
    return 0 if found.is_reproduced else 1


def _replay(dump: FailureDump, rank: int | None) -> Replay:
    """Of the rank that is asked for; or of the one where it went wrong, which is to be found where only gradients were."""
    if rank is not None and rank not in dump.records:
        kept = ", ".join(map(str, dump.records))
        message = f"--rank is {rank}, but the failure dump has only the batches of ranks {kept}; choose one of these"
        raise UserError("MSA-CLI-014", message, setting="--rank")
    candidates = [rank] if rank is not None else dump.about.faulty[:1] or list(dump.records)
    for candidate in candidates:
        found = replay(dump, candidate, distributed.device())
        if found.is_reproduced:
            break
    return found


def _report(dump: FailureDump, found: Replay) -> str:
    about, trace = dump.about, found.trace
    lines = [
        f"step {about.step}, rank {found.rank}, world size {len(about.losses)}, {dump.config.trainer.precision}, "
        f"{dump.metadata.name} on {dump.metadata.dataset}",
        f"samples: {', '.join(_name(sample) for sample in dump.samples(found.rank))}",
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
        lines.append(f"not finite in a batch of their own: {names or 'none of the samples'}")
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
