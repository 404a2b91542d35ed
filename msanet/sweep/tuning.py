"""Ray Tune: started or resumed; and the training of the best configuration."""

import json
import logging
import random
from functools import partial
from pathlib import Path
from typing import Any

from msanet.errors import UserError
from msanet.files import write_text
from msanet.sweep.cluster import rank_resources, ray_for
from msanet.sweep.plan import FORMAT_VERSION, TRAIN, SweepPlan
from msanet.sweep.process import RankExit
from msanet.sweep.ranks import start_ranks, wait_for_ranks
from msanet.sweep.settings import Axis
from msanet.sweep.space import grid_points, ray_domain, ray_search_space, to_yaml
from msanet.sweep.trial import run_trial
from msanet.sweep.trial_files import Outcome

logger = logging.getLogger(__name__)

PLAN_FILE = "sweep.json"
_RAY_FOLDER = "ray"


def tune_sweep(plan: SweepPlan, address: str | None = None) -> None:
    """Run the trials that remain; a stopped sweep resumes. address: of a Ray cluster; None for Ray on this machine.

    Raises UserError where the folder has another sweep, or no trial can ever be placed.
    """
    _check_same_sweep(plan)
    with ray_for(plan, address):
        tuner = _tuner(plan)
        write_text(plan.folder / PLAN_FILE, plan.fingerprint)
        tuner.fit()


def _tuner(plan: SweepPlan) -> Any:
    from ray import tune

    sweep, folder = plan.sweep, plan.folder / _RAY_FOLDER
    # The first bundle is the trial itself, which only waits, so that the ranks get all cores.
    placement = tune.PlacementGroupFactory([{}, *[rank_resources(plan)] * sweep.ranks], strategy="PACK")
    trainable = tune.with_resources(partial(run_trial, plan=plan), placement)
    if tune.Tuner.can_restore(str(folder)):
        logger.info(f"resuming the sweep in {plan.folder}")
        return tune.Tuner.restore(str(folder), trainable=trainable, resume_unfinished=True)
    random.seed(sweep.seed)  # pbt samples from here
    grid = grid_points(plan.file.space, plan.base_settings)
    return tune.Tuner(
        trainable,
        param_space=ray_search_space(plan.file.space, grid),
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
            callbacks=[progress_callback(plan)],
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
        message = "sweep.searcher=optuna needs the package optuna, which is not installed; pip install 'msanet[sweep]'"
        raise UserError("MSA-SWEEP-001", message, setting="sweep.searcher") from None
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = OptunaSearch(sampler=optuna.samplers.TPESampler(seed=sweep.seed), metric=sweep.metric, mode="max")
    most = sweep.max_concurrent_trials
    return ConcurrencyLimiter(search, max_concurrent=most) if most else search


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
        # A trial ends by itself after its epochs, with a last checkpoint; at max_t ASHA would stop it without one.
        grace = sweep.grace_epochs
        return schedulers.AsyncHyperBandScheduler(time_attr="epoch", grace_period=grace, max_t=10**6 * grace)
    if sweep.scheduler == "median":
        # While there are too few trials to compare, Ray pauses one for a waiting one: once, since each time costs a start.
        return schedulers.MedianStoppingRule(time_attr="epoch", grace_period=sweep.grace_epochs, min_time_slice=10**6)
    return schedulers.FIFOScheduler()


def mutation(axis: Axis) -> Any:
    """What pbt resamples from: a list, of which it otherwise takes a neighbor, or a range."""
    return ray_domain(axis) if axis.range else [to_yaml(value) for value in axis.options]


def within_ranges(config: dict[str, Any], space: dict[str, Axis]) -> dict[str, Any]:
    """Clip what pbt proposes: it multiplies by 0.8 or 1.2, also beyond the ends of a range."""
    ranges = {key: axis.range for key, axis in space.items() if axis.range}
    return config | {key: min(max(config[key], low), high) for key, (low, high) in ranges.items() if key in config}


def progress_callback(plan: SweepPlan) -> Any:
    """A callback for Tune that logs what trials do and records how they end."""
    from ray import tune

    class Progress(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            logger.info(f"trial {trial.trial_id} starts")

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            metric = plan.sweep.metric
            if metric in result:
                logger.info(f"trial {trial.trial_id} epoch {result['epoch']:g}: {metric} {result[metric]:.4f}")

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            (plan.trials / trial.trial_id / Outcome.NAME).unlink(missing_ok=True)  # of the failed attempt
            logger.warning(f"trial {trial.trial_id} has failed and resumes from its last checkpoint")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._finalize(trial, Outcome(status="stopped"))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._finalize(trial, Outcome(status="failed", error="its process or its node was lost"))

        def _finalize(self, trial: Any, default: Outcome) -> None:
            run = plan.trials / trial.trial_id
            outcome = Outcome.load(run) or default
            outcome.model_copy(update={"seconds": trial.last_result.get("time_total_s")}).save(run)
            level = logging.WARNING if outcome.status == "failed" else logging.INFO
            logger.log(level, f"trial {trial.trial_id} {outcome.status}{': ' if outcome.error else ''}{outcome.error}")

    return Progress()


def train_best(plan: SweepPlan, config_file: Path, run: Path, address: str | None = None) -> int:
    """Train in the folder `run` with all settings of best.yaml, on the same number of ranks as a trial; returns the exit code."""
    with ray_for(plan, address):
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        logger.info(f"training the best configuration in {run}; the output of its ranks is in {run / 'ranks'}")
        group = placement_group([rank_resources(plan)] * plan.sweep.ranks, strategy="PACK")
        command = [*TRAIN, "--config", str(config_file), f"run.dir={to_yaml(str(run))}"]
        strategy = PlacementGroupSchedulingStrategy(group)
        train = ray.remote(_train).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
        exits: list[RankExit] = ray.get(train.remote(plan, command, run))
    failed = [rank_exit for rank_exit in exits if rank_exit.code]
    if failed:
        logger.error(failed[0].message)
    return failed[0].code if failed else 0


def _train(plan: SweepPlan, command: list[str], run: Path) -> list[RankExit]:
    actors, running = start_ranks(plan, command, run)
    return wait_for_ranks(actors, running, on_poll=lambda: None)


def _check_same_sweep(plan: SweepPlan) -> None:
    file = plan.folder / PLAN_FILE
    if not file.is_file():
        return
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        version = stored.get("format_version", "none, as in msanet 0.1 before November 2026")
    except (ValueError, AttributeError, RecursionError):
        version = "none, since it is damaged or not a file written by msanet"
    if version != FORMAT_VERSION:
        found = f"the format_version of '{file}' is {version}, expected {FORMAT_VERSION}"
        message = f"{found}; resume with the version of msanet that started the sweep, or choose another sweep.folder"
        raise UserError("MSA-SWEEP-014", message, setting="sweep.folder")
    if stored.get("folder") != str(plan.folder):
        found = f"'{plan.folder}' has a sweep that was started in '{stored.get('folder')}', whose files name that path"
        message = f"{found}, expected its own folder; move it back there, or choose another sweep.folder"
        raise UserError("MSA-SWEEP-012", message, setting="sweep.folder")
    if stored != json.loads(plan.fingerprint):
        found = f"'{plan.folder}' has a sweep with other settings (see {PLAN_FILE})"
        message = f"{found}, expected the same ones to resume it; choose another sweep.folder"
        raise UserError("MSA-SWEEP-013", message, setting="sweep.folder")
