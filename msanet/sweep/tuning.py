"""Ray Tune: started, fed with trials, continued; and the training of the best configuration."""

import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

from msanet.errors import UserError
from msanet.files import write_text
from msanet.sweep.cluster import bundle, ray_for
from msanet.sweep.plan import SweepPlan
from msanet.sweep.process import RankExit
from msanet.sweep.ranks import start_ranks, wait_for_ranks
from msanet.sweep.settings import Axis
from msanet.sweep.space import domain, grid_points, search_space, to_yaml
from msanet.sweep.trial import OUTCOME_FILE, Outcome, conclude, read_outcome, run_trial

PLAN_FILE = "sweep.json"
_RAY_FOLDER = "ray"


def tune_sweep(plan: SweepPlan, address: str | None = None) -> None:
    """Run the trials that remain. A stopped sweep goes on. Raises UserError where no trial can ever be placed."""
    _require_same_sweep(plan)
    with ray_for(plan, address):
        tuner = _tuner(plan)
        write_text(plan.folder / PLAN_FILE, plan.fingerprint)
        tuner.fit()


def _tuner(plan: SweepPlan) -> Any:
    from ray import tune

    sweep, folder = plan.sweep, plan.folder / _RAY_FOLDER
    # The first bundle is of the trial itself, which only waits, so that ranks get all cores.
    placement = tune.PlacementGroupFactory([{}, *[bundle(plan)] * sweep.ranks], strategy="PACK")
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
            callbacks=[progress(plan)],
            verbose=0,
        ),
    )


def _searcher(plan: SweepPlan) -> Any:
    sweep = plan.sweep
    if sweep.searcher != "optuna":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(max_concurrent=sweep.max_concurrent_trials or 0, random_state=sweep.seed)
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
    return (
        ConcurrencyLimiter(search, max_concurrent=sweep.max_concurrent_trials)
        if sweep.max_concurrent_trials
        else search
    )


def _scheduler(plan: SweepPlan) -> Any:
    from ray.tune import schedulers

    sweep = plan.sweep
    if sweep.searcher == "pbt":
        return schedulers.PopulationBasedTraining(
            time_attr="epoch",
            perturbation_interval=sweep.perturb_every_epochs,
            hyperparam_mutations={key: mutation(axis) for key, axis in plan.file.space.items()},
            custom_explore_fn=partial(within_ranges, space=plan.file.space),
        )
    if sweep.scheduler == "asha":
        # A trial ends by itself after its epochs, with its last checkpoint; ASHA would end it without.
        return schedulers.AsyncHyperBandScheduler(
            time_attr="epoch", grace_period=sweep.grace_epochs, max_t=10**6 * sweep.grace_epochs
        )
    if sweep.scheduler == "median":
        # As long as there are too few to compare with, trials make way for waiting ones: once, since each time costs a start.
        return schedulers.MedianStoppingRule(time_attr="epoch", grace_period=sweep.grace_epochs, min_time_slice=10**6)
    return schedulers.FIFOScheduler()


def mutation(axis: Axis) -> Any:
    """What pbt draws anew from: a list, whose neighbours it takes otherwise, or a range."""
    return domain(axis) if axis.range else [to_yaml(value) for value in axis.options]


def within_ranges(config: dict[str, Any], space: dict[str, Axis]) -> dict[str, Any]:
    """pbt multiplies by 0.8 or 1.2, also beyond the ends of a range."""
    ranges = {key: axis.range for key, axis in space.items() if axis.range}
    return {
        key: min(max(value, ranges[key][0]), ranges[key][1]) if key in ranges else value
        for key, value in config.items()
    }


def progress(plan: SweepPlan) -> Any:
    """A callback for Tune that says what trials do, a line each, and notes how they end."""
    from ray import tune

    class Progress(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            say(f"trial {trial.trial_id} starts")

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            if plan.sweep.metric in result:
                say(
                    f"trial {trial.trial_id} epoch {result['epoch']:g}: {plan.sweep.metric} {result[plan.sweep.metric]:.4f}"
                )

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            (plan.trials / trial.trial_id / OUTCOME_FILE).unlink(missing_ok=True)  # that of the attempt: it is not over
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

    return Progress()


def say(sentence: str) -> None:
    """A line of progress."""
    print(sentence, file=sys.stderr, flush=True)


def train_best(plan: SweepPlan, config_file: Path, run: Path, address: str | None = None) -> int:
    """Train by a whole config in the folder `run`, with as many ranks as a trial has. The exit code of that training."""
    with ray_for(plan, address):
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        say(f"training the best configuration in {run}; what its ranks say is in {run / 'ranks'}")
        group = placement_group([bundle(plan)] * plan.sweep.ranks, strategy="PACK")
        command = [str(plan.script), "--config", str(config_file), f"run.dir={to_yaml(str(run))}"]
        strategy = PlacementGroupSchedulingStrategy(group)
        train = ray.remote(_train).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
        ends: list[RankExit] = ray.get(train.remote(plan, command, run))
    blamed = [end for end in ends if end.code]
    if blamed:
        say(f"error: {blamed[0].sentence}")
    return blamed[0].code if blamed else 0


def _train(plan: SweepPlan, command: list[str], run: Path) -> list[RankExit]:
    actors, ends = start_ranks(plan, command, run)
    return wait_for_ranks(actors, ends, lambda: None)


def _require_same_sweep(plan: SweepPlan) -> None:
    file = plan.folder / PLAN_FILE
    before = file.read_text(encoding="utf-8") if file.is_file() else plan.fingerprint
    if f'"folder": {to_yaml(str(plan.folder))}' not in before:
        raise UserError(
            f"'{plan.folder}' holds a sweep that began in another folder (see {PLAN_FILE}), whose name is all over Ray's "
            "notes; move it back there, or choose another sweep.folder"
        )
    if before != plan.fingerprint:
        raise UserError(
            f"'{plan.folder}' holds a sweep with other settings (see {PLAN_FILE}), expected the same to go on; choose another "
            "sweep.folder"
        )
