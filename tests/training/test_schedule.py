"""What is due after which step, over grids: no trainer needed."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from msanet.training.checkpoint.format import Best, EarlyStopping
from msanet.training.schedule import TrainSchedule, TrainState, after_validation

SCHEDULE = TrainSchedule(
    total_steps=20,
    steps_per_epoch=26 / 6,
    log_every_steps=3,
    checkpoint_every_steps=7,
    val_every_epochs=1.0,
    keep_best=True,
)


def steps_due(due: Callable[[TrainSchedule, TrainState], bool], schedule: TrainSchedule = SCHEDULE) -> list[int]:
    return [step for step in range(1, schedule.total_steps + 1) if due(schedule, TrainState(step))]


@pytest.mark.parametrize("total", [1, 2, 7, 20])
@pytest.mark.parametrize("every", [1, 2, 3, 7, 50])
def test_multiples_and_the_last_step_are_due(total: int, every: int) -> None:
    expected = sorted({*range(every, total + 1, every), total})
    schedule = replace(SCHEDULE, total_steps=total, log_every_steps=every, checkpoint_every_steps=every)
    assert steps_due(TrainSchedule.should_log, schedule) == expected == steps_due(TrainSchedule.should_save, schedule)


@pytest.mark.parametrize("epochs", [0.0, 0.05, 0.5, 1.0, 1.5, 100.0])
def test_validations_come_at_the_first_step_that_completes_the_epochs(epochs: float) -> None:
    interval = epochs * 26 / 6
    expected = {20}
    for number in range(1, 200):
        reached = next((step for step in range(1, 21) if interval and step >= number * interval), None)
        expected |= {reached} if reached else set()
    assert steps_due(TrainSchedule.should_validate, replace(SCHEDULE, val_every_epochs=epochs)) == sorted(expected)


def test_a_pending_validation_is_due_and_keeps_the_run_from_being_done() -> None:
    for step in range(21):
        pending = TrainState(step, validation_pending=True)
        assert SCHEDULE.should_validate(pending) and not SCHEDULE.is_done(pending)
        assert SCHEDULE.is_done(TrainState(step)) == (step == 20)


def test_the_best_so_far_is_saved() -> None:
    best = TrainState(5, best=Best(step=5, mean_iou=0.3))
    assert SCHEDULE.should_save(best) and not replace(SCHEDULE, keep_best=False).should_save(best)
    assert not SCHEDULE.should_save(replace(best, step=6))


def test_without_a_validation_split_none_is_due() -> None:
    assert steps_due(TrainSchedule.should_validate, replace(SCHEDULE, has_validation=False)) == []


def test_early_stopping_counts_validations_without_a_better_metric() -> None:
    seen, early = [], None
    for value in (0.2, 0.1, 0.3, 0.3, math.nan, 0.29):
        early = after_validation(early, "mean_iou", value)
        seen.append(early.validations_since)
    assert seen == [0, 1, 0, 1, 2, 3] and early == EarlyStopping(metric="mean_iou", best=0.3, validations_since=3)
    schedule, state = replace(SCHEDULE, early_stopping_patience=3), TrainState(5, early_stopping=early)
    assert schedule.is_done(state) and schedule.should_save(state) and not SCHEDULE.is_done(state)
    assert not replace(schedule, early_stopping_patience=4).is_done(state)
    assert not schedule.is_done(replace(state, validation_pending=True))
    assert after_validation(early, "pixel_accuracy", 0.1) == EarlyStopping(metric="pixel_accuracy", best=0.1)
    assert after_validation(None, "mean_iou", math.nan).validations_since == 1
