"""`msanet predict`: which files are segmented, and what is written of them."""

import glob
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from msanet import distributed
from msanet.api.settings import with_metadata_resize
from msanet.cli.parser import new_parser, parse
from msanet.cli.run_arguments import add_run_arguments, find_checkpoint, run_config
from msanet.config import EvaluationConfig
from msanet.data.band_settings import require_shown_bands
from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.errors import UserError, nearest
from msanet.files import is_junk
from msanet.inference.backends import load_model
from msanet.inference.scenes import SCENE_ENDINGS
from msanet.inference.submission import SUBMISSION_FORMATS, SubmissionFormat
from msanet.inference.writer import ENDINGS, VIDEO_ENDING, PredictionWriter
from msanet.logs import track
from msanet.report.video import VIDEO_EXTENSIONS, is_video

logger = logging.getLogger(__name__)

_NAMED = 6

_DETAILS = """\
Writes NAME.png (palette PNG of train ids) and NAME.overlay.jpg for each image, NAME.overlay.mp4 for each video, and what
--write asks for instead (docs/prediction.md). A GeoTIFF, or a TIFF of any size, is read and written in blocks:
NAME.palette.tif and so on, with the same transform and CRS. A submission to Cityscapes is the content of FOLDER, zipped;
one to VOC is its subfolder `results`, as a .tgz. A file that cannot be read is logged and skipped; the exit code is then 1.

  msanet predict --run RUN --images scene.tif --out FOLDER evaluation.window=[512,512] report.bands=[4,3,2]"""


@dataclass(frozen=True)
class PredictionJob:
    """What is to be predicted.

    Args:
        files: (image or video, name without extension under `out`).
        kinds: Kinds of output, None for the usual ones.
        queries: (row, column) of pixels whose attention is shown.
        submission: The format of a test server, which is written instead.
        shown_bands: Bands that overlays show; None: those of the training's reports.
    """

    checkpoint: Path
    files: tuple[tuple[Path, Path], ...]
    out: Path
    settings: EvaluationConfig
    kinds: tuple[str, ...] | None
    queries: tuple[tuple[int, int], ...]
    submission: SubmissionFormat | None
    shown_bands: tuple[int, ...] | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 1 if a file failed."""
    return 1 if predict(prediction_job(argv)) else 0


def predict(job: PredictionJob) -> int:
    """All files through the network; returns the number that failed."""
    model, metadata = load_model(job.checkpoint, distributed.device())
    settings = with_metadata_resize(job.settings, metadata)
    require_shown_bands(job.shown_bands, metadata.image)
    outputs = PredictionWriter(model, metadata, settings, job.kinds, job.queries, job.submission, job.shown_bands)
    failed = 0
    for path, name in track(job.files, "predict", len(job.files), unit="file"):
        try:
            outputs.write(path, job.out / name)
        except UserError as error:
            logger.error(f"{error} [{error.code}]")
            failed += 1
    print(f"{len(job.files) - failed} of {len(job.files)} files segmented into {job.out}")
    return failed


def prediction_job(argv: Sequence[str] | None = None) -> PredictionJob:
    """Read the command line and find its files. Raises UserError where there are none."""
    parser = new_parser("predict", "predict --run RUN --images 'photos/**/*.jpg' --out FOLDER", _DETAILS)
    add_run_arguments(parser)
    images = "images, videos, folders of them, or quoted patterns such as 'photos/**/*.jpg'"
    parser.add_argument("--images", nargs="+", required=True, metavar="PATH", help=images)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the results go")
    kinds_help = f"comma-separated, of {', '.join(ENDINGS)} (default palette,overlay)"
    parser.add_argument("--write", metavar="KINDS", help=kinds_help)
    query = "pixel whose attention `maps` shows (msanet), can be repeated (default: the center)"
    pair = ("ROW", "COLUMN")
    parser.add_argument("--query", type=int, nargs=2, action="append", default=[], metavar=pair, help=query)
    parser.add_argument("--crf", action="store_true", help="the same as evaluation.crf.enabled=true")
    submission = "write what this test server takes, and nothing else"
    parser.add_argument("--submission", choices=SUBMISSION_FORMATS, help=submission)
    arguments = parse(parser, argv)
    kinds = None if arguments.write is None else tuple(kind.strip() for kind in arguments.write.split(","))
    _check_kinds(kinds, bool(arguments.query), bool(arguments.submission))
    if arguments.out.exists() and not arguments.out.is_dir():
        message = f"--out '{arguments.out}' is a file, expected a folder; choose another path"
        raise UserError("MSA-CLI-008", message, setting="--out")

    words = [word for word in arguments.images if not _is_setting(word)]
    overrides = [word for word in arguments.images if _is_setting(word)]  # `--images` takes all words that follow it
    overrides += [*arguments.settings, *(["evaluation.crf.enabled=true"] if arguments.crf else [])]
    config, checkpoint = run_config(arguments, overrides), find_checkpoint(arguments)
    server = SUBMISSION_FORMATS[arguments.submission] if arguments.submission else None
    files = _find_files(words, arguments.out, server)
    _require_apart(files, kinds)
    _require_inputs_stay(files, arguments.out, kinds)
    if server:
        server.require_free(arguments.out, (name for _, name in files))
    return PredictionJob(
        checkpoint,
        tuple(files),
        arguments.out,
        config.evaluation,
        kinds,
        tuple((row, column) for row, column in arguments.query),
        server,
        config.report.bands,
    )


def _check_kinds(kinds: Sequence[str] | None, has_query: bool, is_submission: bool) -> None:
    for kind in kinds or ():
        if kind not in ENDINGS:
            message = f"--write has the unknown kind '{kind}'; {nearest(kind, list(ENDINGS))}"
            raise UserError("MSA-CLI-012", message, setting="--write")
    if has_query and "maps" not in (kinds or ()):
        message = "--query is for the attention maps, which are not written; add maps to --write"
        raise UserError("MSA-CLI-006", message, setting="--query")
    if is_submission and kinds:
        message = (
            "--submission and --write are both given, expected one: a submission has only its own files; remove --write"
        )
        raise UserError("MSA-CLI-006", message, setting="--submission")


def _is_setting(word: str) -> bool:
    return word.startswith(("evaluation.", "report.")) and "=" in word and not Path(word).exists()


def _find_files(words: Sequence[str], out: Path, server: SubmissionFormat | None) -> list[tuple[Path, Path]]:
    """(file, name under `out` without extension). Raises UserError where two files have one name, or there is none."""
    skipped: list[Path] = []
    found = dict(pair for word in words for pair in _files_of(word, out, skipped))
    counts = Counter(file.suffix.lower() or "no ending" for file in skipped).most_common(_NAMED)
    others = f"{len(skipped)} other files ({', '.join(f'{ending} {count}' for ending, count in counts)})"
    if not found:
        endings = ", ".join(IMAGE_EXTENSIONS + VIDEO_EXTENSIONS)
        there = f", but {others}" if skipped else ""
        message = f"'{' '.join(words)}' has no images{there}, expected files ending in {endings}; check --images"
        raise UserError("MSA-CLI-009", message, setting="--images")
    if skipped:
        logger.info(f"not predicted: {others}, which are neither images nor videos")
    names = {file: server.name(file) for file in found} if server else _names(found)
    owners: dict[tuple[Path, bool], Path] = {}
    for file, name in names.items():
        other = owners.setdefault((name, is_video(file)), file)
        if other != file:
            message = f"'{other}' and '{file}' would both be written as '{name}'; predict them into two folders"
            raise UserError("MSA-CLI-010", message, setting="--images")
    return list(names.items())


def _names(found: Mapping[Path, Path]) -> dict[Path, Path]:
    """Names without ending, but where several images, or several videos, would have one: a.jpg and a.png."""
    times = Counter((name.with_suffix(""), is_video(name)) for name in {*found.values()})
    stems = {file: name.with_suffix("") for file, name in found.items()}
    return {file: name if times[stems[file], is_video(name)] > 1 else stems[file] for file, name in found.items()}


def _files_of(word: str, out: Path, skipped: list[Path]) -> Iterator[tuple[Path, Path]]:
    """(file, its name): a file as it is, the images and videos of a folder in depth or of a pattern, but those under `out`.

    Names keep the folders below the folder that was given, or below the part of the pattern before its first wildcard.
    skipped: gets the other files.
    """
    path = Path(word)
    if path.is_dir():
        root = path
        candidates = (file for folder in _folders(path) for file in _entries(folder) if _is_file(file))
    elif path.exists():
        yield path, Path(path.name)
        return
    elif glob.has_magic(word):
        root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        if ".." in path.parts[len(root.parts) :]:
            message = (
                f"'{word}' has .. after a wildcard, which would lead results out of --out; write the pattern without it"
            )
            raise UserError("MSA-CLI-009", message, setting="--images")
        candidates = (file for file in _matches(path) if _is_file(file))
    else:
        message = f"'{word}' does not exist, expected an image, a video or a folder of them; check --images"
        raise UserError("MSA-CLI-009", message, setting="--images")
    inside = root.resolve() in out.resolve().parents  # then it may hold what an earlier command wrote
    for file in sorted(candidates):
        if is_junk(file.name) or (inside and out.resolve() in file.resolve().parents):
            continue
        if is_video(file) or file.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS:
            yield file, file.relative_to(root)
        else:
            skipped.append(file)


def _folders(root: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """A folder and all below it, linked ones too; a link to a folder above itself is not followed."""
    real = root.resolve()
    if real in above:
        logger.warning(f"'{root}' is a link to a folder that it lies in, and is skipped")
        return
    yield root
    for path in _entries(root):
        if path.is_dir() and not is_junk(path.name):
            yield from _folders(path, above | {real})


def _is_file(path: Path) -> bool:
    """Links to nothing too: what is left out has to be said, and is when it is read."""
    return path.is_file() or not path.exists()


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except PermissionError:
        logger.warning(f"'{folder}' may not be read, and is skipped")
        return []


def _matches(pattern: Path) -> Iterator[Path]:
    """What a pattern names. `**` is walked here, since glob follows circular links for as long as the system lets it."""
    if "**" not in pattern.parts:
        yield from map(Path, glob.iglob(str(pattern)))
        return
    place = pattern.parts.index("**")
    found: set[Path] = set()
    for root in map(Path, glob.iglob(str(Path(*pattern.parts[:place])))) if place else [Path()]:
        for folder in _folders(root) if root.is_dir() else ():
            if not any(part.startswith(".") for part in folder.relative_to(root).parts):  # as glob does
                found.update(_matches(Path(glob.escape(str(folder)), *(pattern.parts[place + 1 :] or ("*",)))))
    yield from found


def _require_apart(files: Sequence[tuple[Path, Path]], kinds: Sequence[str] | None) -> None:
    """Raise UserError if two files would have a result of one name: `x.ids.png` is the ids of x and the palette of x.ids."""
    owners: dict[str, Path] = {}
    images = {name: file for file, name in files if not is_video(file)}
    for name, file in images.items():
        for result in (f"{name}{ending}" for ending in _endings(kinds)):
            if owners.setdefault(result, file) != file:
                message = f"'{owners[result]}' and '{file}' would both be written as '{result}'; predict them into two folders"
                raise UserError("MSA-CLI-010", message, setting="--images")
    folders = {name.parent: file for name, file in images.items()}
    for name, video in _folders_of_frames(files, kinds).items():
        if name in folders:
            message = (
                f"the frames of '{video}' would be written into '{name}', where the results of '{folders[name]}' go"
            )
            raise UserError("MSA-CLI-010", f"{message}; predict them into two folders", setting="--images")


def _require_inputs_stay(files: Sequence[tuple[Path, Path]], out: Path, kinds: Sequence[str] | None) -> None:
    """Raise UserError if a result would take the place of a file that is to be predicted."""
    inputs = {file.resolve() for file, _ in files}
    for _, name in files:
        for ending in (VIDEO_ENDING, *_endings(kinds)):
            target = out / f"{name}{ending}"
            if target.resolve() in inputs:
                message = f"'{target}' is an image to be predicted, its result would replace it; choose another --out"
                raise UserError("MSA-CLI-010", message, setting="--out")
    folders = {file.parent for file in inputs if not is_video(file)}
    for name, video in _folders_of_frames(files, kinds).items():
        if (out / name).resolve() in folders:
            message = f"'{out / name}' has images to be predicted, the frames of '{video}' would be written there"
            raise UserError("MSA-CLI-010", f"{message}; choose another --out", setting="--out")


def _endings(kinds: Sequence[str] | None) -> list[str]:
    """Of an image's results, or a scene's, but for maps, whose endings the network has."""
    shown = kinds or ("palette", "overlay")
    return [endings[kind] for endings in (ENDINGS, SCENE_ENDINGS) for kind in shown if endings.get(kind)]


def _folders_of_frames(files: Sequence[tuple[Path, Path]], kinds: Sequence[str] | None) -> dict[Path, Path]:
    """{folder under `out`: video} where videos have results of each frame."""
    return {name: file for file, name in files if is_video(file) and set(kinds or ()) - {"overlay"}}
