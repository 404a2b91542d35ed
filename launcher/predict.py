"""Segment images and videos with a trained network.

    python launcher/predict.py --run RUN --images PATH_OR_PATTERN... --out FOLDER
    python launcher/predict.py --checkpoint FILE --images PATH... --out FOLDER [--write KINDS] [--crf] [evaluation.KEY=VALUE ...]
    python launcher/predict.py --run RUN --images TEST_SET --out FOLDER --submission cityscapes

Writes NAME.png (palette PNG of train ids) and NAME.overlay.jpg for each image, NAME.overlay.mp4 for each video, and what
--write asks for instead (docs/prediction.md). A submission for Cityscapes is the content of FOLDER, zipped; one for VOC is
its subfolder `results`, as a .tgz. A file that cannot be read is named and the rest goes on; the exit code is then 1.
"""

import sys

from tqdm import tqdm

from msanet import distributed
from msanet.command_line import PredictionJob, at_the_cards_size, prediction_job
from msanet.errors import UserError, user_errors
from msanet.evaluation.outputs import Outputs
from msanet.models.saved import load_network


def predict(job: PredictionJob) -> int:
    """All files through the network; returns the number that failed."""
    model, card = load_network(job.checkpoint, distributed.device())
    settings = at_the_cards_size(job.settings, card)
    outputs = Outputs(model, card, settings, job.kinds, job.queries, job.server)
    failed = 0
    for path, name in tqdm(job.files, "predict", unit="file"):
        try:
            outputs.write(path, job.out / name)
        except UserError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
    print(f"{len(job.files) - failed} of {len(job.files)} files segmented into {job.out}")
    return failed


if __name__ == "__main__":
    with user_errors():
        sys.exit(1 if predict(prediction_job(__doc__ or "", sys.argv[1:])) else 0)
