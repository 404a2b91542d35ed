"""A run whose validation was interrupted and that then goes on without a validation split trains, and waits for none."""

from dataclasses import replace
from pathlib import Path

from support.ranks import run_ranks
from support.small_runs import run_steps, small_config, start


def _resume_without_validation(shards: str) -> None:
    config = small_config(shards, stage=0, network="unet")
    trainer = start(config)
    run_steps(trainer, 1)
    trainer.state.validation_pending = True
    saved = trainer.checkpoint()
    assert saved.state.validation_pending and start(config, saved).state.validation_pending
    without = config.model_copy(update={"data": config.data.model_copy(update={"val_split": None})})
    resumed = start(without, replace(saved, config=""))
    assert not resumed.state.validation_pending and not resumed.schedule.keep_best
    assert not resumed.schedule.should_validate(resumed.state) and not resumed.schedule.is_done(resumed.state)


def test_a_pending_validation_does_not_keep_a_run_without_validation_from_training(shards: Path) -> None:
    run_ranks(1, __file__, "_resume_without_validation", {"shards": str(shards)})
