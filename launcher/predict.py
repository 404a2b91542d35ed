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
from msanet.cli import PredictionJob, prediction_job, with_metadata_resize
from msanet.errors import UserError, user_errors
from msanet.inference.writer import PredictionWriter
from msanet.models.io import load_network


def predict(job: PredictionJob) -> int:
    """All files through the network; returns the number that failed."""
    model, metadata = load_network(job.checkpoint, distributed.device())
    settings = with_metadata_resize(job.settings, metadata)
    outputs = PredictionWriter(model, metadata, settings, job.kinds, job.queries, job.server)
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
