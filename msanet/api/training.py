"""`msanet.train`, and the run that it leaves."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msanet
from msanet import distributed
from msanet.api.arguments import Data, PathLike
from msanet.api.local_ranks import run_local_ranks
from msanet.api.process_state import api_call
from msanet.api.settings import training_config
from msanet.config import Config, load_run_config
from msanet.distributed.supervisor import supervise
from msanet.evaluation.run_report import read_lines
from msanet.run_layout import RunLayout
from msanet.training.train import train as train_rank

if TYPE_CHECKING:
    from msanet.api.model import Model


@dataclass(frozen=True)
class Run:
    """A training that is over, or was interrupted: everything is read from its folder.

    Args:
        dir: The run folder.

    Example:
        >>> run = msanet.Run("run")
        >>> [line["val/mean_iou"] for line in run.metrics if "val/mean_iou" in line]
    """

    dir: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", Path(self.dir))

    @property
    def config(self) -> Config:
        """All settings of the run."""
        return load_run_config(RunLayout(self.dir).config)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The history, one dictionary for each line of metrics.jsonl: `step`, `epoch` and, where measured, `loss`, `lr`,
        `val/mean_iou` and others."""
        return read_lines(RunLayout(self.dir).metrics)

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of `metrics` with the highest mean IoU of the validation split; None without a validation."""
        name = f"{self.config.data.val_split}/mean_iou"
        return max(
            (line for line in self.metrics if line.get(name) is not None), key=lambda line: line[name], default=None
        )

    @property
    def report(self) -> Path:
        """The HTML page of the last validation or evaluation."""
        return RunLayout(self.dir).report

    def load(self, best: bool = False) -> "Model":
        """The trained network: of the latest checkpoint, or of the one with the best validation. See `msanet.load`."""
        return msanet.load(self.dir, best=best)


def train(
    config: PathLike | None = None,
    *,
    data: Data | None = None,
    dir: PathLike | None = None,
    ranks: int = 1,
    **settings: Any,
) -> Run:
    """Train a network, or resume its training: the same call again continues where it stopped.

    One rank trains in this process, which afterwards is as it was before; several are processes of their own.

    Args:
        config: Name of a recipe (`msanet recipes`) or path of a YAML file; None for the defaults.
        data: Folder or address of shards, `folder:DIR`, a list of these, or a mapping of `data` settings that includes `path`.
        dir: The run folder; the same as the setting `run.dir`.
        ranks: Processes to train on, each with a GPU of its own, or all on the CPU. One that a launcher such as torchrun has
            started is a rank of that job already, and leaves this at 1.
        settings: Settings that override the file's: sections as mappings, `trainer={"steps": 100}`, or dotted names,
            `**{"trainer.steps": 100}`.

    Returns:
        The run.

    Raises:
        UserError: Bad input; `code` and `setting` say which.
        KeyboardInterrupt: Ctrl-C, after the checkpoint was saved.
        msanet.distributed.Preempted: SIGTERM or another request to stop, after the checkpoint was saved.
        msanet.distributed.JobFailed: A rank has died or hangs.

    Example:
        >>> run = msanet.train("camvid-cpu", data="shards", dir="run", trainer={"epochs": 2})
        >>> run.best["val/mean_iou"]
    """
    with api_call():
        complete = training_config(config, data, dir, settings)
        assert complete.run.dir is not None, "checked with the arguments"
        if ranks > 1 or complete.run.max_restarts:
            run_local_ranks(ranks, train_and_exit, complete)
        else:
            with distributed.session(distributed.Timeouts.from_config(complete.run)):
                train_rank(complete)
        return Run(complete.run.dir)


def train_and_exit(config: Config) -> NoReturn:
    """The training of one rank, as the whole of its process; with run.max_restarts this one becomes its supervisor."""
    timeouts = distributed.Timeouts.from_config(config.run)
    if supervise(config.run.max_restarts, timeouts):  # started again after a failure: whatever run.resume says
        config = config.model_copy(update={"run": config.run.model_copy(update={"resume": "auto"})})
    distributed.run_and_exit(partial(train_rank, config), timeouts)
