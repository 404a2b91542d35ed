"""`msanet evaluate`: the metrics of a trained network on a split, on any number of ranks; each image counts exactly once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from msanet import distributed
from msanet.cli.parser import new_parser, parse
from msanet.cli.run_arguments import add_run_arguments, find_checkpoint, run_config, with_metadata_resize
from msanet.config import EvaluationConfig, StorageConfig
from msanet.data.manifest import Manifest
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import Storage, open_storage
from msanet.distributed import Timeouts
from msanet.errors import UserError
from msanet.evaluation.evaluator import evaluate
from msanet.evaluation.measurement import measured
from msanet.evaluation.result import require_complete, require_writable, write_evaluation
from msanet.evaluation.run_report import score_table, write_run_report
from msanet.inference.backends import load_model
from msanet.models.io import require_same_classes

_DETAILS = """\
Writes evaluation-<split>.json, evaluation-<split>.npz (the counts of every image, for msanet compare, worst and rescore)
and report.html into the run (or --out). The exit code is not 0 if an image was missed or counted twice.
On several GPUs: deepspeed --module msanet evaluate --run RUN --split val"""


@dataclass(frozen=True)
class EvaluationJob:
    """What is to be evaluated, and where results go.

    find_checkpoint: Takes a while, since it verifies checkpoints.
    has_shards_of_run: The shards are those of --run, which may have been moved since.
    """

    find_checkpoint: Callable[[], Path]
    run: Path | None
    shards: str
    has_shards_of_run: bool
    split: str
    out: Path
    settings: EvaluationConfig
    storage: StorageConfig
    timeouts: Timeouts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; every rank does. Returns its exit code."""
    job = evaluation_job(argv)
    distributed.run_and_exit(partial(run_evaluation, job), job.timeouts)


def run_evaluation(job: EvaluationJob) -> None:
    """From a checkpoint and shards to metrics; every rank runs this."""
    shards = open_storage(job.shards, job.storage)
    manifest = distributed.on_main(lambda: _read_manifest(job, shards))
    checkpoint = distributed.on_main(job.find_checkpoint)  # its hashes are verified once for all
    model, metadata = load_model(checkpoint, distributed.device())
    require_same_classes(metadata, manifest.classes, shards.location)
    source = ShardSource(shards, job.split, manifest)
    settings = with_metadata_resize(job.settings, metadata)
    distributed.on_main(lambda: require_writable(job.out))  # now, not after the work

    result = evaluate(model, source, settings, metadata.mean, metadata.std)
    if distributed.is_main():
        metrics = write_evaluation(job.out, result, measured(settings, metadata.step, checkpoint))
        report = write_run_report(job.out, metadata.palette, result, run=job.run)
        print(score_table(result), f"written to {metrics} and {report}", sep="\n")
    require_complete(result, source)


def _read_manifest(job: EvaluationJob, shards: Storage) -> Manifest:
    try:
        return read_manifest(shards)
    except (UserError, OSError) as error:
        if not job.has_shards_of_run:
            raise
        raise UserError(
            "MSA-CLI-401",
            f"the shards that the run '{job.run}' was trained on cannot be read ({error}); if they were moved, give their new "
            "place: --data SHARDS",
            setting="--data",
        ) from None


def evaluation_job(argv: Sequence[str] | None = None) -> EvaluationJob:
    """Read the command line. Raises UserError where it makes no sense."""
    parser = new_parser("evaluate", "evaluate --run RUN --split val", _DETAILS)
    add_run_arguments(parser)
    parser.add_argument("--data", metavar="SHARDS", help="folder or address of shards (default: the run's)")
    parser.add_argument("--split", help="split to evaluate on (default: the run's validation split)")
    out_help = "where to write (default: the run, or the checkpoint's folder)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=out_help)
    parser.add_argument("--crf", action="store_true", help="the same as evaluation.crf.enabled=true")
    arguments = parse(parser, argv)
    crf = ["evaluation.crf.enabled=true"] if arguments.crf else []
    config = run_config(arguments, [*arguments.settings, *crf])
    shards = arguments.data or config.data.path
    if shards is None:
        message = "--data is not given, expected a folder of shards with --checkpoint; add --data SHARDS"
        raise UserError("MSA-CLI-007", message, setting="--data")
    split = arguments.split or config.data.val_split
    if split is None:
        message = (
            "the run has no validation split (data.val_split=null), expected a split to evaluate on; add --split SPLIT"
        )
        raise UserError("MSA-CLI-601", message, setting="--split")
    given: Path = arguments.run or arguments.checkpoint
    return EvaluationJob(
        partial(find_checkpoint, arguments),
        arguments.run,
        shards,
        arguments.run is not None and not arguments.data,
        split,
        arguments.out or (given if given.is_dir() else given.parent),
        config.evaluation,
        config.storage,
        Timeouts.from_config(config.run),
    )
