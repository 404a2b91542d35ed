"""The command line of launcher/export.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msanet.cli.parser import add_checkpoint_arguments, checkpoint_and_config, new_parser
from msanet.errors import UserError
from msanet.inference.export import FORMATS


@dataclass(frozen=True)
class ExportJob:
    """What export.py is asked for. target: one of FORMATS. size: (height, width) of all images, or None for any."""

    checkpoint: Path
    target: str
    out: Path
    size: tuple[int, int] | None


def export_job(description: str, argv: Sequence[str]) -> ExportJob:
    """Read export.py's command line. Raises UserError on a size or a place for the file that makes no sense."""
    parser = new_parser(description)
    add_checkpoint_arguments(parser)
    parser.add_argument("--to", choices=sorted(FORMATS), required=True, help="format of the file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file; in the run, or beside the checkpoint")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="the only size of images; any unless given"
    )
    arguments = parser.parse_intermixed_args(argv)
    size = tuple(arguments.size) if arguments.size else None
    if size and (arguments.to == "safetensors" or min(size) < 1):
        raise UserError(f"--size is {size[0]} {size[1]}, expected two positive numbers and a graph; leave --size out")
    checkpoint, _ = checkpoint_and_config(arguments, ())
    out = arguments.out or (arguments.run or checkpoint.parent) / f"model{FORMATS[arguments.to].ending}"
    if out.is_dir() or out.resolve() == checkpoint.resolve():
        found = "a folder" if out.is_dir() else "the checkpoint itself"
        raise UserError(f"--out '{out}' is {found}, expected the name of a new file; give another --out")
    return ExportJob(checkpoint, arguments.to, out, size)
