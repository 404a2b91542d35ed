"""Export a trained network for use elsewhere.

    python launcher/export.py --run RUN --to onnx
    python launcher/export.py --checkpoint FILE --to onnx|torch|safetensors [--out FILE] [--size H W]

Writes one file, model.onnx, model.pt2 or model.safetensors in the run (or --out), that takes RGB images of any size (or
--size) in grey values, normalizes them itself and holds the model metadata. The file is run first: where it says something
else than the network, nothing is written. docs/deployment.md shows its use.
"""

import sys

import torch

from msanet.cli import ExportJob, export_job
from msanet.errors import user_errors
from msanet.inference.export import export_network
from msanet.models.io import load_network


def export(job: ExportJob) -> None:
    """From a checkpoint to a checked file."""
    network, metadata = load_network(job.checkpoint, torch.device("cpu"))
    job.out.parent.mkdir(parents=True, exist_ok=True)
    export_network(job.out, job.target, network, metadata, job.size)
    print(
        f"{metadata.name} with {len(metadata.classes)} classes of {metadata.dataset}, step {metadata.step}, written to {job.out}"
    )


if __name__ == "__main__":
    with user_errors():
        export(export_job(__doc__ or "", sys.argv[1:]))
