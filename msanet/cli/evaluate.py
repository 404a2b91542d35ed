"""The command line of launcher/evaluate.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from msanet.cli.parser import add_checkpoint_arguments, find_checkpoint, new_parser, prints_for_all, run_config
from msanet.config import EvaluationConfig, StorageConfig
from msanet.distributed import Timeouts
from msanet.errors import UserError, user_errors


@dataclass(frozen=True)
class EvaluationJob:
    """What evaluate.py is asked for. run: the folder of --run. out: the folder that gets figures and report.

    find_checkpoint: the file to judge, which takes a while, since whole checkpoints are verified.
    """

    find_checkpoint: Callable[[], Path]
    run: Path | None
    shards: str
    split: str
    out: Path
    settings: EvaluationConfig
    storage: StorageConfig
    timeouts: Timeouts


def evaluation_job(description: str, argv: Sequence[str]) -> EvaluationJob:
    """Read evaluate.py's command line. Ends with exit code 2 on errors."""
    parser = new_parser(description)
    add_checkpoint_arguments(parser)
    parser.add_argument("--data", metavar="SHARDS", help="folder or address of shards; the run's own unless given")
    parser.add_argument("--split", help="split to judge on; the run's validation split unless given")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write; the run, or the checkpoint's folder"
    )
    parser.add_argument("--crf", action="store_true", help="the same as evaluation.crf.enabled=true")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="evaluation.* settings that override the run's"
    )
    arguments = parser.parse_intermixed_args(argv)
    with user_errors(should_print=prints_for_all):
        crf = ["evaluation.crf.enabled=true"] if arguments.crf else []
        config = run_config(arguments, [*arguments.settings, *crf])
        shards = arguments.data or config.data.path
        if shards is None:
            raise UserError("--data is not given, expected a folder of shards with --checkpoint; add --data SHARDS")
        given: Path = arguments.run or arguments.checkpoint
        return EvaluationJob(
            partial(find_checkpoint, arguments),
            arguments.run,
            shards,
            arguments.split or config.data.val_split,
            arguments.out or (given if given.is_dir() else given.parent),
            config.evaluation,
            config.storage,
            Timeouts.from_config(config.run),
        )
