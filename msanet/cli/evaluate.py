"""`msanet evaluate`: the metrics of a trained network on a split, on any number of ranks; each image counts exactly once."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msanet.api.evaluation import EvaluationJob, evaluate_and_exit, new_job
from msanet.cli.parser import new_parser, parse
from msanet.cli.run_arguments import add_run_arguments, data_words, find_checkpoint, run_config
from msanet.evaluation.result import EvaluationResult
from msanet.evaluation.run_report import score_table

_DETAILS = """\
Writes evaluation-<split>.json, evaluation-<split>.npz (the counts of every image, for msanet compare, worst and rescore)
and report.html into the run (or --out). The exit code is not 0 if an image was missed or counted twice.
On several GPUs: deepspeed --module msanet evaluate --run RUN --split val"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; every rank does. Returns its exit code."""
    evaluate_and_exit(evaluation_job(argv), _print_scores)


def _print_scores(result: EvaluationResult, metrics: Path, report: Path) -> None:
    print(score_table(result), f"written to {metrics} and {report}", sep="\n")


def evaluation_job(argv: Sequence[str] | None = None) -> EvaluationJob:
    """Read the command line. Raises UserError where it makes no sense."""
    parser = new_parser("evaluate", "evaluate --run RUN --split val", _DETAILS)
    add_run_arguments(parser)
    parser.add_argument(
        "--data",
        metavar="SHARDS",
        help="folder or address of shards, or folder:DIR of images and labels (default: the run's)",
    )
    parser.add_argument("--split", help="split to evaluate on (default: the run's validation split)")
    out_help = "where to write (default: the run, or the checkpoint's folder)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=out_help)
    parser.add_argument("--crf", action="store_true", help="the same as evaluation.crf.enabled=true")
    arguments = parse(parser, argv)
    crf = ["evaluation.crf.enabled=true"] if arguments.crf else []
    config = run_config(arguments, [*data_words(arguments.data), *arguments.settings, *crf])
    find, given = partial(find_checkpoint, arguments), arguments.run or arguments.checkpoint
    return new_job(config, find, given, arguments.run, not arguments.data, arguments.split, arguments.out)
