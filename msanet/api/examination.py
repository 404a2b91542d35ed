"""`msanet.doctor`: what is wrong with data and settings, before a training is started."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from msanet.api.arguments import Data, PathLike
from msanet.api.process_state import api_call
from msanet.api.settings import training_config
from msanet.config import Config
from msanet.distributed.cores import available_cores
from msanet.doctor.diagnostics import Diagnostic
from msanet.doctor.examination import Case, examine
from msanet.doctor.folder_check import FolderCase, check_folder, require_alone, require_folder

SAMPLES = 50


def doctor(
    config: PathLike | None = None,
    *,
    data: Data | None = None,
    dir: PathLike | None = None,
    ranks: int | None = None,
    device_memory: float | None = None,
    samples: int = SAMPLES,
    folder: PathLike | None = None,
    classes: PathLike | None = None,
    dataset: str | None = None,
    splits: Sequence[str] = (),
    out: PathLike | None = None,
    workers: int | None = None,
    **settings: Any,
) -> list[Diagnostic]:
    """Examine what `msanet.train` would do with the same arguments; or, with `folder`, what packing would make of it.

    Args:
        config: As of `msanet.train`.
        data: Likewise.
        dir: Likewise.
        ranks: Of the training; None for one on each GPU of this machine, or one.
        device_memory: Of a rank's device in 10^9 bytes; None for that of the GPU here, else memory is not checked.
        samples: Of each split, to be decoded.
        folder: A raw dataset, as a folder or zip file, whose samples are all read. It goes without the arguments before.
        classes: Classes file, for layouts that need one.
        dataset: Name of the layout, as of `msanet.pack`; None for whichever fits.
        splits: That are wanted; the usual ones are checked too.
        out: Folder for `folder.html`, a page with pictures; None: no page.
        workers: Processes; None for one per CPU.
        settings: As of `msanet.train`.

    Returns:
        Diagnostics, each with `level` (`ok`, `advice`, `warning`, `fault`), `check` and `text`.

    Raises:
        UserError: There is nothing to examine.

    Example:
        >>> [found.text for found in msanet.doctor("camvid", data="shards", dir="run") if found.level == "fault"]
        >>> msanet.doctor(folder="photos", classes="classes.yaml", out="check")
    """
    with api_call():
        if folder is not None:
            require_alone(
                _given(config=config, data=data, dir=dir, ranks=ranks, device_memory=device_memory, **settings)
            )
            return check_folder(folder_case(folder, classes, dataset, splits, out, workers))
        require_folder(_given(classes=classes, dataset=dataset, splits=splits, out=out, workers=workers))
        return examine_run(training_config(config, data, dir, settings), ranks, device_memory, samples)


def _given(**arguments: Any) -> list[str]:
    return [name for name, value in arguments.items() if value not in (None, ())]


def folder_case(
    folder: PathLike,
    classes: PathLike | None,
    dataset: str | None,
    splits: Sequence[str] | None,
    out: PathLike | None,
    workers: int | None,
) -> FolderCase:
    """What the arguments of `doctor` of these names say. Raises UserError for an unknown dataset."""
    from msanet.cli.pack import reader_named

    paths = [None if path is None else Path(path) for path in (classes, out)]
    reader = reader_named(dataset) if dataset else None
    return FolderCase(Path(folder), paths[0], reader, tuple(splits or ()), paths[1], workers or available_cores())


def examine_run(config: Config, ranks: int | None, device_memory: float | None, samples: int) -> list[Diagnostic]:
    """`doctor` of a whole configuration."""
    here = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    device_bytes = device_memory * 1e9 if device_memory else here
    return examine(Case(config, ranks or max(1, torch.cuda.device_count()), device_bytes, samples))
