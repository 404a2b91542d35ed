"""Judge a trained network on a split, on any number of ranks; each image is counted exactly once.

    deepspeed launcher/evaluate.py --run RUN --split val
    deepspeed launcher/evaluate.py --checkpoint FILE --data SHARDS [--split val] [--out FOLDER]

Writes evaluation-<split>.json, evaluation-<split>.npz (the counts of every image, for python -m msanet.evaluation) and
report.html into the run (or --out). Ends non-zero if an image was missed or counted twice.
"""

import sys

from msanet import distributed
from msanet.cli import EvaluationJob, evaluation_job, with_metadata_resize
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.evaluation.evaluator import evaluate
from msanet.evaluation.result import require_complete, require_writable, write_evaluation
from msanet.evaluation.run_report import score_table, write_run_report
from msanet.models.io import load_network, require_same_classes


def run_evaluation(job: EvaluationJob) -> None:
    """From a checkpoint and shards to figures; every rank runs this."""
    shards = open_storage(job.shards, job.storage)
    manifest = distributed.on_main(lambda: read_manifest(shards))
    checkpoint = distributed.on_main(job.find_checkpoint)  # its hashes are verified once for all
    model, metadata = load_network(checkpoint, distributed.device())
    require_same_classes(metadata, manifest.classes, shards.location)
    source = ShardSource(shards, job.split, manifest)
    settings = with_metadata_resize(job.settings, metadata)
    distributed.on_main(lambda: require_writable(job.out))  # now, not after the work

    result = evaluate(model, source, settings, metadata.mean, metadata.std)
    if distributed.is_main():
        figures = write_evaluation(job.out, result)
        report = write_run_report(job.out, metadata.palette, result, run=job.run)
        print(score_table(result), f"written to {figures} and {report}", sep="\n")
    require_complete(result, source)


if __name__ == "__main__":
    job = evaluation_job(__doc__ or "", sys.argv[1:])
    distributed.run_and_exit(lambda: run_evaluation(job), job.timeouts)
