"""The command line of launcher/predict.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msanet.command_line.parser import add_checkpoint_arguments, checkpoint_and_config, new_parser
from msanet.data.codec import IMAGE_EXTENSIONS
from msanet.errors import UserError


@dataclass(frozen=True)
class PredictionJob:
    """What predict.py is asked for. images: (file, name without extension under `out`)."""

    checkpoint: Path
    images: tuple[tuple[Path, Path], ...]
    out: Path
    precision: str


def prediction_job(description: str, argv: Sequence[str]) -> PredictionJob:
    """Read predict.py's command line and find its images. Raises UserError where there are none."""
    parser = new_parser(description)
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--images", type=Path, nargs="+", required=True, metavar="PATH", help="image files or folders of them"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where masks and overlays go")
    arguments = parser.parse_args(argv)
    checkpoint, config = checkpoint_and_config(arguments, ())
    return PredictionJob(checkpoint, _find_images(arguments.images), arguments.out, config.evaluation.precision)


def _find_images(paths: Sequence[Path]) -> tuple[tuple[Path, Path], ...]:
    """Files as they are, folders searched in depth; names keep the folders below the one that was given."""
    found: dict[Path, Path] = {}  # name -> file
    for path in paths:
        if not path.exists():
            raise UserError(f"'{path}' is not there, expected an image or a folder of images; check --images")
        files = sorted(file for file in path.rglob("*") if _is_image(file)) if path.is_dir() else [path]
        for file in files:
            name = (file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix("")
            if found.setdefault(name, file) != file:
                raise UserError(
                    f"'{found[name]}' and '{file}' would both be written as '{name}'; predict them into two folders"
                )
    if not found:
        raise UserError(
            f"'{paths[0]}' holds no images, expected files ending in {', '.join(IMAGE_EXTENSIONS)}; check --images"
        )
    return tuple((file, name) for name, file in found.items())


def _is_image(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS and path.is_file()
