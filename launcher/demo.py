"""A page for the browser: drop an image, see its classes, their areas, and the attention map under the mouse.

    python launcher/demo.py --run RUN
    python launcher/demo.py --checkpoint FILE [--port 7860] [--max-megapixels 8] [--max-megabytes 20] [evaluation.KEY=VALUE ...]

Needs `pip install 'msanet[demo]'`. The page is for this machine alone unless --host says otherwise; it has no password.
Images stay in memory: nothing is written to disk, and nothing is asked from the internet.
"""

import sys

from msanet import distributed
from msanet.cli import DemoJob, demo_job, with_metadata_resize
from msanet.demo.segmenter import Segmenter
from msanet.demo.server import serve
from msanet.errors import user_errors
from msanet.models.io import load_network


def demo(job: DemoJob) -> None:
    """From a checkpoint to a page, until Ctrl-C."""
    model, metadata = load_network(job.checkpoint, distributed.device())
    settings = with_metadata_resize(job.settings, metadata)
    serve(Segmenter(model, metadata, settings, job.limits), job.host, job.port)


if __name__ == "__main__":
    with user_errors():
        demo(demo_job(__doc__ or "", sys.argv[1:]))
