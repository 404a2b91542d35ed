"""Segment images with a trained network.

    python launcher/predict.py --run RUN --images DIR_OR_FILES --out DIR

Writes, for each image and under its own name, NAME.png (palette PNG of train ids) and NAME.overlay.jpg. A file that
cannot be read is named and the rest goes on; the exit code is then 1.
"""

import sys

import torch
from tqdm import tqdm

from msanet import distributed
from msanet.command_line import PredictionJob, prediction_job
from msanet.data.codec import decode_image
from msanet.errors import UserError, user_errors
from msanet.evaluation.inference import predict_labels
from msanet.models.saved import load_network
from msanet.visual.prediction import write_prediction


def predict(job: PredictionJob) -> int:
    """All images through the network; returns the number that failed."""
    device = distributed.device()
    model, card = load_network(job.checkpoint, device)
    failed = 0
    for image_path, name in tqdm(job.images, "predict", unit="image"):
        try:
            image_HWC = decode_image(image_path.read_bytes(), str(image_path))
        except UserError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        pixels = torch.from_numpy(image_HWC).to(device)
        label_HW = predict_labels(model, pixels, card.mean, card.std, card.resize, job.precision).cpu().numpy()
        write_prediction(job.out / name, image_HWC, label_HW, card.palette)
    print(f"{len(job.images) - failed} of {len(job.images)} images segmented into {job.out}")
    return failed


if __name__ == "__main__":
    with user_errors():
        sys.exit(1 if predict(prediction_job(__doc__ or "", sys.argv[1:])) else 0)
