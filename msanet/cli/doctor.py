"""`msanet doctor`: look at a run's data and settings before it starts, and report what to change."""

from collections.abc import Sequence

from msanet.api.examination import SAMPLES, examine_run
from msanet.cli.output import print_result
from msanet.cli.parser import new_parser, parse, require_positive
from msanet.cli.train import add_training_arguments, config_of
from msanet.doctor.diagnostics import as_text, as_tree, has_fault

_DETAILS = "Takes what msanet train takes. Exit code 0: no fault; 1: a fault; 2: nothing to examine."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("doctor", "doctor --config camvid data.path=SHARDS run.dir=RUN", _DETAILS)
    add_training_arguments(parser)
    ranks = "ranks of the job (default: GPUs of this machine, or 1)"
    parser.add_argument("--ranks", type=int, metavar="N", help=ranks)
    memory = "memory of a rank's device in 10^9 bytes (default: that of the GPU here, else memory is not checked)"
    parser.add_argument("--device-memory", type=float, metavar="GB", help=memory)
    samples = f"samples of each split that are decoded (default {SAMPLES})"
    parser.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=samples)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    arguments = parse(parser, argv)
    require_positive(arguments, "--ranks", "--samples", "--device-memory")
    found = examine_run(config_of(arguments), arguments.ranks, arguments.device_memory, arguments.samples)
    print_result(as_tree(found) if arguments.json else as_text(found))
    return int(has_fault(found))
