"""The command line of launcher/predict.py."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from msanet.cli.parser import Parser, add_checkpoint_arguments, checkpoint_and_config, new_parser
from msanet.config import EvaluationConfig
from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.errors import UserError, nearest
from msanet.inference.submission import SUBMISSION_FORMATS, SubmissionFormat
from msanet.inference.writer import ENDINGS, VIDEO_ENDING
from msanet.report.video import VIDEO_EXTENSIONS, is_video


@dataclass(frozen=True)
class PredictionJob:
    """What predict.py is asked for. files: (image or video, name without extension under `out`).

    kinds: of outputs, None for the usual ones. queries: (row, column). server: whose submission is written instead.
    """

    checkpoint: Path
    files: tuple[tuple[Path, Path], ...]
    out: Path
    settings: EvaluationConfig
    kinds: tuple[str, ...] | None
    queries: tuple[tuple[int, int], ...]
    server: SubmissionFormat | None


def prediction_job(description: str, argv: Sequence[str]) -> PredictionJob:
    """Read predict.py's command line and find its files. Raises UserError where there are none."""
    arguments = _parser(description).parse_intermixed_args(argv)
    kinds = None if arguments.write is None else tuple(kind.strip() for kind in arguments.write.split(","))
    for kind in kinds or ():
        if kind not in ENDINGS:
            raise UserError(f"--write has '{kind}', expected kinds of output; {nearest(kind, list(ENDINGS))}")
    if arguments.query and "maps" not in (kinds or ()):
        raise UserError("--query is given without maps, expected both; add maps to --write")
    if arguments.submission and kinds:
        raise UserError("--submission is given with --write, expected one of them: a submission is its own files alone")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"--out '{arguments.out}' is a file, expected a folder; choose another place")

    words = [word for word in arguments.images if not _is_setting(word)]
    overrides = [word for word in arguments.images if _is_setting(word)]  # `--images` takes all words that follow it
    overrides += [*arguments.settings, *(["evaluation.crf.enabled=true"] if arguments.crf else [])]
    checkpoint, config = checkpoint_and_config(arguments, overrides)
    server = SUBMISSION_FORMATS[arguments.submission] if arguments.submission else None
    files = _find_files(words, arguments.out, server)
    _require_apart(files, kinds)
    _require_inputs_stay(files, arguments.out, kinds)
    if server:
        server.require_free(arguments.out, files)
    return PredictionJob(
        checkpoint,
        tuple((file, name) for name, file in files.items()),
        arguments.out,
        config.evaluation,
        kinds,
        tuple((row, column) for row, column in arguments.query),
        server,
    )


def _parser(description: str) -> Parser:
    parser = new_parser(description)
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--images",
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, videos, folders of them, or quoted patterns such as 'photos/**/*.jpg'",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the results go")
    parser.add_argument(
        "--write", metavar="KINDS", help=f"comma-separated, of {', '.join(ENDINGS)}; palette,overlay unless given"
    )
    parser.add_argument(
        "--query",
        type=int,
        nargs=2,
        action="append",
        default=[],
        metavar=("ROW", "COLUMN"),
        help="pixel whose attention `maps` shows (msanet), can be repeated; the centre unless given",
    )
    parser.add_argument("--crf", action="store_true", help="the same as evaluation.crf.enabled=true")
    parser.add_argument(
        "--submission", choices=SUBMISSION_FORMATS, help="write what this test server takes, and nothing else"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="evaluation.* settings that override the run's"
    )
    return parser


def _is_setting(word: str) -> bool:
    return word.startswith("evaluation.") and "=" in word and not Path(word).exists()


def _find_files(words: Sequence[str], out: Path, server: SubmissionFormat | None) -> dict[Path, Path]:
    """{name under `out` without extension: file}. Raises UserError where two files have one name, or there is none."""
    found: dict[Path, Path] = {}
    for file, name in (pair for word in words for pair in _files_of(word, out)):
        name = server.name(file) if server else name.with_suffix("")
        if found.setdefault(name, file) != file:
            raise UserError(
                f"'{found[name]}' and '{file}' would both be written as '{name}'; predict them into two folders"
            )
    if not found:
        endings = ", ".join(IMAGE_EXTENSIONS + VIDEO_EXTENSIONS)
        raise UserError(f"'{' '.join(words)}' holds no images, expected files ending in {endings}; check --images")
    return found


def _files_of(word: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """(file, its name): a file as it is, the images and videos of a folder in depth or of a pattern, but those under `out`.

    Names keep the folders below the folder that was given, or below the part of the pattern before its first wildcard.
    """
    path = Path(word)
    if path.is_dir():
        root = path
        candidates: Iterable[Path] = path.rglob("*")
    elif path.exists():
        yield path, Path(path.name)
        return
    elif glob.has_magic(word):
        root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        if ".." in path.parts[len(root.parts) :]:
            raise UserError(
                f"'{word}' has .. behind a wildcard, which would lead results out of --out; write the pattern without it"
            )
        candidates = (Path(match) for match in glob.iglob(word, recursive=True))
    else:
        raise UserError(f"'{word}' is not there, expected an image, a video or a folder of them; check --images")
    inside = root.resolve() in out.resolve().parents  # then it may hold what an earlier command wrote
    for file in sorted(candidates):
        if _is_picture(file) and not (inside and out.resolve() in file.resolve().parents):
            yield file, file.relative_to(root)


def _is_picture(path: Path) -> bool:
    return (is_video(path) or path.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS) and path.is_file()


def _require_apart(files: dict[Path, Path], kinds: Sequence[str] | None) -> None:
    """Raise UserError if two files would have a result of one name: `x.ids.png` is the ids of x and the palette of x.ids."""
    owners: dict[str, Path] = {}
    images = {name: file for name, file in files.items() if not is_video(file)}
    for name, file in images.items():
        for result in (f"{name}{ending}" for ending in _endings(kinds)):
            if owners.setdefault(result, file) != file:
                raise UserError(
                    f"'{owners[result]}' and '{file}' would both be written as '{result}'; predict them into two folders"
                )
    folders = {name.parent: file for name, file in images.items()}
    for name in _folders_of_frames(files, kinds):
        if name in folders:
            raise UserError(
                f"the frames of '{files[name]}' would be written into '{name}', where the results of '{folders[name]}' go; "
                "predict them into two folders"
            )


def _require_inputs_stay(files: dict[Path, Path], out: Path, kinds: Sequence[str] | None) -> None:
    """Raise UserError if a result would take the place of a file that is to be predicted."""
    inputs = {file.resolve() for file in files.values()}
    for name in files:
        for ending in (VIDEO_ENDING, *_endings(kinds)):
            target = out / f"{name}{ending}"
            if target.resolve() in inputs:
                raise UserError(
                    f"'{target}' is an image to be predicted, its result would replace it; choose another --out"
                )
    folders = {file.parent for file in inputs if not is_video(file)}
    for name in _folders_of_frames(files, kinds):
        if (out / name).resolve() in folders:
            raise UserError(
                f"'{out / name}' holds images to be predicted, the frames of '{files[name]}' would be written there; "
                "choose another --out"
            )


def _endings(kinds: Sequence[str] | None) -> list[str]:
    """Of an image's results, but for maps, whose endings the network has."""
    return [ENDINGS[kind] for kind in kinds or ("palette", "overlay") if ENDINGS[kind]]


def _folders_of_frames(files: dict[Path, Path], kinds: Sequence[str] | None) -> list[Path]:
    """Where videos have results of each frame, under `out`."""
    return [name for name, file in files.items() if is_video(file) and set(kinds or ()) - {"overlay"}]
