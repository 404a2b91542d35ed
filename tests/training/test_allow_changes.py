"""Going on with another optimizer or global batch, where `run.allow_changes` allows it."""

from pathlib import Path
from typing import Any

import torch

from msanet import distributed
from msanet.config import Config
from msanet.training.checkpoint.io import write_checkpoint
from msanet.training.trainer import Trainer
from support.errors import raises_user_error
from support.ranks import run_ranks
from support.small_runs import newest, run_steps, small_config, start


def _with(config: Config, section: str, **values: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def _save(trainer: Trainer, folder: Path) -> None:
    checkpoint = trainer.checkpoint()
    distributed.on_main(lambda: write_checkpoint(folder, checkpoint, keep=1))


def _change_optimizer(shards: str, folder: str) -> None:
    """Adam for two steps, SGD for two, as if SGD had begun with those weights; and Adam again."""
    for stage in range(4):
        place = Path(folder) / str(stage)
        adam, sgd = small_config(shards, stage), small_config(shards, stage, name="sgd", lr=0.05)
        trainer = start(adam)
        run_steps(trainer, 2)
        _save(trainer, place)
        with raises_user_error("MSA-CKPT-005", setting="optimizer.name", mentions="run.allow_changes=[optimizer]"):
            start(sgd, newest(place))
        trainer = start(_with(sgd, "run", allow_changes=("optimizer",)), newest(place))
        run_steps(trainer, 2)
        _save(trainer, place)
        state = newest(place).optimizer
        assert trainer.state.step == 4 and all(part.keys() == {"momentum_buffer"} for part in state.values())
        assert any(part["momentum_buffer"].any() for part in state.values())
        trainer = start(sgd, newest(place))  # from here on it is a run like any other
        trainer = start(_with(adam, "run", allow_changes=("optimizer",)), newest(place))
        run_steps(trainer, 1)
        _save(trainer, place)
        saved = newest(place)
        assert {float(part["step"]) for part in saved.optimizer.values()} == {1.0}, "counted again"
        assert saved.state.step == 5 and all(torch.isfinite(tensor).all() for tensor in saved.weights.values())
        print(f"stage {stage} went on")


def test_another_optimizer_starts_with_a_state_of_its_own(shards: Path, tmp_path: Path) -> None:
    outputs = run_ranks(2, __file__, "_change_optimizer", {"shards": str(shards), "folder": str(tmp_path)})
    for stage in range(4):
        assert all(f"stage {stage} went on" in said for said in outputs)
    assert (
        "warning: the checkpoint in run.dir has optimizer adam, this run has sgd: its state starts from zero"
        in outputs[0]
    )
    assert "warning: the checkpoint" not in outputs[1]


def _double_the_batch(shards: str, folder: str) -> None:
    """Two epochs of 26: 4 steps of 6, then steps of 12 until all 52 are taken."""
    place = Path(folder)
    first = _with(small_config(shards, 1), "trainer", steps=None, epochs=2.0)
    trainer = start(first)
    assert trainer.schedule.total_steps == 9
    run_steps(trainer, 4)
    _save(trainer, place)
    doubled = _with(first, "trainer", global_batch_size=12)
    with raises_user_error("MSA-CKPT-005", setting="trainer.global_batch_size", mentions="run.allow_changes=[batch]"):
        start(doubled, newest(place))
    trainer = start(_with(doubled, "run", allow_changes=("batch",)), newest(place))
    assert (trainer.state.step, trainer.state.consumed_samples, trainer.schedule.total_steps) == (4, 24, 7)
    seen = distributed.gather_objects(run_steps(trainer, 1))
    expected = trainer.order.samples(torch.arange(24, 36).numpy())
    assert sum(seen, []) == list(zip(expected[0].tolist(), expected[1].tolist(), strict=True))
    _save(trainer, place)
    trainer = start(doubled, newest(place))  # no longer another batch
    assert (trainer.state.step, trainer.state.consumed_samples, trainer.schedule.total_steps) == (5, 36, 7)
    for batches in trainer.global_batches():
        trainer.train_step(batches)
    assert (trainer.state.step, trainer.state.consumed_samples) == (7, 60) and trainer.schedule.is_done(trainer.state)
    assert trainer.state.consumed_samples >= 2 * trainer.order.epoch_length > trainer.state.consumed_samples - 12
    print("went on")


def test_another_global_batch_resumes_at_the_same_position(shards: Path, tmp_path: Path) -> None:
    outputs = run_ranks(2, __file__, "_double_the_batch", {"shards": str(shards), "folder": str(tmp_path)})
    assert all("went on" in said for said in outputs)
    assert (
        "the run resumes at sample 24 of another order, so of the current epoch samples may be seen twice" in outputs[0]
    )
