"""Ray Tune: started, fed with trials, continued; and the training of the best configuration."""

import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from msanet.errors import UserError
from msanet.files import write_text
from msanet.sweep.plan import SweepPlan
from msanet.sweep.process import End
from msanet.sweep.ranks import start_ranks, wait_for_ranks
from msanet.sweep.settings import Axis
from msanet.sweep.space import domain, grid_points, search_space, text_of
from msanet.sweep.trial import Outcome, conclude, read_outcome, run_trial

PLAN_FILE = "sweep.json"
_RAY_FOLDER = "ray"
_OBJECT_STORE = 100 * 2**20
"""Bytes; only settings and figures go through it."""


def tune_sweep(plan: SweepPlan, address: str | None = None) -> None:
    """Run the trials that remain. A stopped sweep goes on. Raises UserError where no trial can ever be placed."""
    _require_same_sweep(plan)
    with _ray(plan, address):
        tuner = _tuner(plan)
        write_text(plan.folder / PLAN_FILE, plan.fingerprint)
        tuner.fit()


def _tuner(plan: SweepPlan) -> Any:
    from ray import tune

    sweep, folder = plan.sweep, plan.folder / _RAY_FOLDER
    # The first bundle is of the trial itself, which only waits, so that ranks get all cores.
    placement = tune.PlacementGroupFactory([{}, *[_bundle(plan)] * sweep.ranks], strategy="PACK")
    trainable = tune.with_resources(partial(run_trial, plan=plan), placement)
    if tune.Tuner.can_restore(str(folder)):
        print(f"going on with the sweep in {plan.folder}", file=sys.stderr, flush=True)
        return tune.Tuner.restore(str(folder), trainable=trainable, resume_unfinished=True)
    random.seed(sweep.seed)  # pbt draws from here
    points = grid_points(plan.file.space, plan.fixed)
    return tune.Tuner(
        trainable,
        param_space=search_space(plan.file.space, points),
        tune_config=tune.TuneConfig(
            metric=sweep.metric,
            mode="max",
            num_samples=sweep.trials,
            search_alg=_searcher(plan),
            scheduler=_scheduler(plan),
            reuse_actors=False,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=_RAY_FOLDER,
            storage_path=str(plan.folder),
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            callbacks=[_voice(plan)],
            verbose=0,
        ),
    )


def _searcher(plan: SweepPlan) -> Any:
    sweep = plan.sweep
    if sweep.searcher != "optuna":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(max_concurrent=sweep.concurrent or 0, random_state=sweep.seed)
    try:
        import optuna
    except ImportError:
        raise UserError(
            "sweep.searcher=optuna needs the package optuna, which is not installed; pip install 'msanet[sweep]'"
        ) from None
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = OptunaSearch(sampler=optuna.samplers.TPESampler(seed=sweep.seed), metric=sweep.metric, mode="max")
    return ConcurrencyLimiter(search, max_concurrent=sweep.concurrent) if sweep.concurrent else search


def _scheduler(plan: SweepPlan) -> Any:
    from ray.tune import schedulers

    sweep = plan.sweep
    if sweep.searcher == "pbt":
        return schedulers.PopulationBasedTraining(
            time_attr="epoch",
            perturbation_interval=sweep.perturb_every,
            hyperparam_mutations={key: mutation(axis) for key, axis in plan.file.space.items()},
            custom_explore_fn=partial(within_ranges, space=plan.file.space),
        )
    if sweep.scheduler == "asha":
        # A trial ends by itself after its epochs, with its last checkpoint; ASHA would end it without.
        return schedulers.AsyncHyperBandScheduler(
            time_attr="epoch", grace_period=sweep.grace, max_t=10**6 * sweep.grace
        )
    if sweep.scheduler == "median":
        return schedulers.MedianStoppingRule(time_attr="epoch", grace_period=sweep.grace)
    return schedulers.FIFOScheduler()


def mutation(axis: Axis) -> Any:
    """What pbt draws anew from: a list, whose neighbours it takes otherwise, or a range."""
    return domain(axis) if axis.range else [text_of(value) for value in axis.options]


def within_ranges(config: dict[str, Any], space: dict[str, Axis]) -> dict[str, Any]:
    """pbt multiplies by 0.8 or 1.2, also beyond the ends of a range."""
    ranges = {key: axis.range for key, axis in space.items() if axis.range}
    return {
        key: min(max(value, ranges[key][0]), ranges[key][1]) if key in ranges else value
        for key, value in config.items()
    }


def _voice(plan: SweepPlan) -> Any:
    """Says what trials do, a line each."""
    from ray import tune

    class Voice(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            say(f"trial {trial.trial_id} starts")

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            if plan.sweep.metric in result:
                say(
                    f"trial {trial.trial_id} epoch {result['epoch']:g}: {plan.sweep.metric} {result[plan.sweep.metric]:.4f}"
                )

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            say(f"trial {trial.trial_id} has failed and goes on from its last checkpoint")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._conclude(trial, Outcome(status="stopped"))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._conclude(trial, Outcome(status="failed", error="its process or its node was lost"))

        def _conclude(self, trial: Any, usual: Outcome) -> None:
            run = plan.trials / trial.trial_id
            conclude(run, usual, trial.last_result.get("time_total_s"))
            outcome = read_outcome(run)
            assert outcome
            say(f"trial {trial.trial_id} {outcome.status}{': ' if outcome.error else ''}{outcome.error}")

    return Voice()


def say(sentence: str) -> None:
    """A line of progress."""
    print(sentence, file=sys.stderr, flush=True)


def train_best(plan: SweepPlan, config_file: Path, run: Path, address: str | None = None) -> int:
    """Train by a whole config in the folder `run`, with as many ranks as a trial has. The exit code of that training."""
    with _ray(plan, address):
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        say(f"training the best configuration in {run}; what its ranks say is in {run / 'ranks'}")
        group = placement_group([_bundle(plan)] * plan.sweep.ranks, strategy="PACK")
        command = [str(plan.script), "--config", str(config_file), f"run.dir={text_of(str(run))}"]
        strategy = PlacementGroupSchedulingStrategy(group)
        train = ray.remote(_train).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
        ends: list[End] = ray.get(train.remote(plan, command, run))
    blamed = [end for end in ends if end.code]
    if blamed:
        say(f"error: {blamed[0].sentence}")
    return blamed[0].code if blamed else 0


def _train(plan: SweepPlan, command: list[str], run: Path) -> list[End]:
    actors, ends = start_ranks(plan, command, run)
    return wait_for_ranks(actors, ends, lambda: None)


def _bundle(plan: SweepPlan) -> dict[str, float]:
    """What one rank takes."""
    return {"CPU": float(plan.sweep.cpus), **({"GPU": 1.0} if plan.sweep.gpus else {})}


@contextmanager
def _ray(plan: SweepPlan, address: str | None) -> Iterator[None]:
    """Ray on this machine, for as long as this lasts, or the cluster at `address`."""
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_kill_child_processes_on_worker_exit": "0",  # ranks are told that their actor is gone, save and end
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails before its first validation has none
        "TUNE_GLOBAL_CHECKPOINT_S": "1",  # seconds between notes of where the sweep stands
    }
    for name, value in wanted.items():  # read when Ray is imported
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.tune  # noqa: F401
    except ImportError:
        raise UserError("a sweep needs Ray Tune, which is not installed; pip install 'msanet[sweep]'") from None
    own = {} if address else {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--address '{address}' leads to no Ray cluster ({reason}); start it, or leave --address out"
        ) from None
    warnings.filterwarnings("ignore", module=r"ray\.tune")  # advice on speed that is not ours to take
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of trials, which results.csv explains
    # On SIGINT, Tune writes down where the sweep stands.
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        _require_room(plan)
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.shutdown()


def _require_room(plan: SweepPlan) -> None:
    """Ray would wait for ever for what the cluster does not have."""
    import ray

    bundle = _bundle(plan)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = sum(int(min(node.get(what, 0.0) // amount for what, amount in bundle.items())) for node in nodes)
    if fits < plan.sweep.ranks:
        needs = " and ".join(f"{amount:g} {what}" for what, amount in bundle.items())
        has = " and ".join(f"{sum(node.get(what, 0.0) for node in nodes):g} {what}" for what in bundle)
        raise UserError(
            f"a trial of sweep.ranks={plan.sweep.ranks} with {needs} each can never be placed, since Ray has {has} on "
            f"{len(nodes)} nodes, room for {fits} ranks; set sweep.ranks or sweep.cpus lower"
        )


def _require_same_sweep(plan: SweepPlan) -> None:
    file = plan.folder / PLAN_FILE
    if file.is_file() and file.read_text() != plan.fingerprint:
        raise UserError(
            f"'{plan.folder}' holds a sweep with other settings (see {PLAN_FILE}), expected the same to go on; choose another "
            "sweep.folder"
        )
