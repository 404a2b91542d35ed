"""Judge a trained network on a split, on any number of ranks; each image is counted exactly once.

    deepspeed launcher/evaluate.py --run RUN --split val
    deepspeed launcher/evaluate.py --checkpoint FILE --data SHARDS [--split val] [--out FOLDER]

Writes evaluation-<split>.json and report.html into the run (or --out). Ends non-zero if an image was missed or counted
twice.
"""

import sys

from msanet import distributed
from msanet.command_line import EvaluationJob, evaluation_job
from msanet.data.source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.evaluation.evaluator import evaluate, require_whole, write_evaluation
from msanet.evaluation.report import evaluation_file, score_table, write_run_report
from msanet.models.saved import load_network, require_same_classes


def judge(job: EvaluationJob) -> None:
    """From a checkpoint and shards to figures; every rank runs this."""
    shards = open_storage(job.shards, job.storage)
    manifest = distributed.on_main(lambda: read_manifest(shards))
    model, card = load_network(job.checkpoint, distributed.device())
    require_same_classes(card, manifest.classes, job.shards)
    source = ShardSource(shards, job.split, manifest)
    settings = job.settings.model_copy(update={"resize": job.settings.resize or card.resize})

    result = evaluate(model, source, settings, card.mean, card.std)
    if distributed.is_main():
        job.out.mkdir(parents=True, exist_ok=True)
        write_evaluation(evaluation_file(job.out, job.split), result)
        report = write_run_report(job.out, card.palette, result)
        print(score_table(result), f"written to {evaluation_file(job.out, job.split)} and {report}", sep="\n")
    require_whole(result, source)


if __name__ == "__main__":
    job = evaluation_job(__doc__ or "", sys.argv[1:])
    with distributed.session(job.timeout):
        judge(job)
