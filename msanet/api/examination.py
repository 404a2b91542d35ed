"""`msanet.doctor`: what is wrong with data and settings, before a training is started."""

from typing import Any

import torch

from msanet.api.process_state import api_call
from msanet.api.settings import Data, PathLike, training_config
from msanet.config import Config
from msanet.doctor.diagnostics import Diagnostic
from msanet.doctor.examination import Case, examine

SAMPLES = 50


def doctor(
    config: PathLike | None = None,
    *,
    data: Data | None = None,
    dir: PathLike | None = None,
    ranks: int | None = None,
    device_memory: float | None = None,
    samples: int = SAMPLES,
    **settings: Any,
) -> list[Diagnostic]:
    """Examine what `msanet.train` would do with the same arguments.

    Args:
        config: As of `msanet.train`.
        data: Likewise.
        dir: Likewise.
        ranks: Of the training; None for one on each GPU of this machine, or one.
        device_memory: Of a rank's device in 10^9 bytes; None for that of the GPU here, else memory is not checked.
        samples: Of each split, to be decoded.
        settings: As of `msanet.train`.

    Returns:
        Diagnostics, each with `level` (`ok`, `advice`, `warning`, `fault`), `check` and `text`.

    Raises:
        UserError: There is nothing to examine.

    Example:
        >>> [found.text for found in msanet.doctor("camvid", data="shards", dir="run") if found.level == "fault"]
    """
    with api_call():
        return examine_run(training_config(config, data, dir, settings), ranks, device_memory, samples)


def examine_run(config: Config, ranks: int | None, device_memory: float | None, samples: int) -> list[Diagnostic]:
    """`doctor` of a whole configuration."""
    here = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    device_bytes = device_memory * 1e9 if device_memory else here
    return examine(Case(config, ranks or max(1, torch.cuda.device_count()), device_bytes, samples))
