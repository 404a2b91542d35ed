"""`msanet serve`: a page for the browser; drop an image, see its classes, their areas, and the attention under the mouse."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msanet import distributed
from msanet.api.settings import with_metadata_resize
from msanet.cli.parser import new_parser, parse, require_positive
from msanet.cli.run_arguments import add_run_arguments, find_checkpoint, run_config
from msanet.config import EvaluationConfig
from msanet.demo.segmenter import Limits, Segmenter
from msanet.demo.server import serve
from msanet.errors import UserError
from msanet.inference.backends import load_model

_DETAILS = """\
Needs `pip install 'msanet[demo]'`. The page is for this machine alone unless --host says otherwise; it has no password.
Images stay in memory: nothing is written to disk, and nothing is requested from the internet."""


@dataclass(frozen=True)
class ServeJob:
    """What is to be served, where, and for which images. port: 0 for any free one."""

    checkpoint: Path
    settings: EvaluationConfig
    host: str
    port: int
    limits: Limits


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; returns the exit code."""
    job = serve_job(argv)
    model, metadata = load_model(job.checkpoint, distributed.device())
    settings = with_metadata_resize(job.settings, metadata)
    serve(Segmenter(model, metadata, settings, job.limits), job.host, job.port)
    return 0


def serve_job(argv: Sequence[str] | None = None) -> ServeJob:
    """Read the command line. Raises UserError on a port or limit that makes no sense."""
    parser = new_parser("serve", "serve --run RUN", _DETAILS)
    add_run_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="0: any free one (default 7860)")
    sizes = {"--max-megabytes": ("of a file", Limits.megabytes), "--max-megapixels": ("of an image", Limits.megapixels)}
    for option, (of, usual) in sizes.items():
        parser.add_argument(option, type=float, default=usual, metavar="N", help=f"{of} (default {usual:g})")
    side = f"images are scaled down to this length of the longer side before the network (default {Limits.side})"
    parser.add_argument("--side", type=int, default=Limits.side, metavar="PIXELS", help=side)
    arguments = parse(parser, argv)
    require_positive(arguments, "--max-megabytes", "--max-megapixels", "--side")
    if not 0 <= arguments.port < 65536:
        message = f"--port is {arguments.port}, expected 0 to 65535; choose for example 7860"
        raise UserError("MSA-CLI-003", message, setting="--port")
    config = run_config(arguments, arguments.settings)
    limits = Limits(arguments.max_megabytes, arguments.max_megapixels, arguments.side)
    return ServeJob(find_checkpoint(arguments), config.evaluation, arguments.host, arguments.port, limits)
