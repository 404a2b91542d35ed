"""Judge a trained network on a split, on any number of ranks; each image is counted exactly once.

    deepspeed launcher/evaluate.py --run RUN --split val
    deepspeed launcher/evaluate.py --checkpoint FILE --data SHARDS [--split val] [--out FOLDER]

Writes evaluation-<split>.json, evaluation-<split>.npz (the counts of every image, for python -m msanet.evaluation) and
report.html into the run (or --out). Ends non-zero if an image was missed or counted twice.
"""

import sys

from msanet import distributed
from msanet.command_line import EvaluationJob, at_the_cards_size, evaluation_job
from msanet.data.source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.evaluation.evaluator import evaluate
from msanet.evaluation.report import score_table, write_run_report
from msanet.evaluation.result import require_whole, require_writable, write_evaluation
from msanet.models.saved import load_network, require_same_classes


def judge(job: EvaluationJob) -> None:
    """From a checkpoint and shards to figures; every rank runs this."""
    shards = open_storage(job.shards, job.storage)
    manifest = distributed.on_main(lambda: read_manifest(shards))
    checkpoint = distributed.on_main(job.find_checkpoint)  # its hashes are verified once for all
    model, card = load_network(checkpoint, distributed.device())
    require_same_classes(card, manifest.classes, shards.location)
    source = ShardSource(shards, job.split, manifest)
    settings = at_the_cards_size(job.settings, card)
    distributed.on_main(lambda: require_writable(job.out))  # now, not after the work

    result = evaluate(model, source, settings, card.mean, card.std)
    if distributed.is_main():
        figures = write_evaluation(job.out, result)
        report = write_run_report(job.out, card.palette, result, run=job.run)
        print(score_table(result), f"written to {figures} and {report}", sep="\n")
    require_whole(result, source)


if __name__ == "__main__":
    job = evaluation_job(__doc__ or "", sys.argv[1:])
    with distributed.session(job.timeout):
        judge(job)
