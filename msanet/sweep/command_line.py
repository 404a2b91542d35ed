"""The command line of jobs/sweep.py."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msanet.cli.parser import Parser
from msanet.errors import UserError
from msanet.sweep.plan import SweepPlan, plan_sweep
from msanet.sweep.settings import SweepConfig, load_sweep


@dataclass(frozen=True)
class SweepJob:
    """What sweep.py is asked for. address: of a Ray cluster; None: Ray on this machine. train_best: instead of trials."""

    plan: SweepPlan
    address: str | None
    train_best: bool


def sweep_job(description: str, script: Path, argv: Sequence[str]) -> SweepJob:
    """Read sweep.py's command line. script: launcher/train.py. Raises UserError for all that can be known before Ray starts."""
    parser = Parser(description=description, epilog=_help(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the sweep (see jobs/sweeps)")
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="of all trials, in place of run.config of the sweep"
    )
    parser.add_argument(
        "--address", help="of a Ray cluster, `auto` on one of its nodes; none: Ray on this machine alone"
    )
    parser.add_argument(
        "--train-best", action="store_true", help="train the best settings found, with those under `full`"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="sweep.* settings, or settings of all trials")
    arguments = parser.parse_intermixed_args(argv)
    if "://" in (arguments.address or ""):
        raise UserError(
            f"--address '{arguments.address}' is not of a head's own port; run this on a node, with HOST:PORT or `auto`"
        )
    for word in arguments.settings:
        if "=" not in word:
            raise UserError(f"'{word}' is no setting, expected key=value, such as sweep.trials=8")
    own = [word for word in arguments.settings if word.startswith("sweep.")]
    others = [word for word in arguments.settings if word not in own]
    file = load_sweep(arguments.config, own)
    if arguments.recipe:
        file = file.model_copy(update={"run": {**file.run, "config": arguments.recipe}})
    plan = plan_sweep(file, arguments.config.stem, script, others)
    return SweepJob(plan, arguments.address, arguments.train_best)


def _help() -> str:
    lines = ["settings of the section sweep:", ""]
    for name, field in SweepConfig.model_fields.items():
        default = "null" if field.default is None else field.default
        lines += [f"  sweep.{name}={default}", f"      {field.description}"]
    return "\n".join(lines)
