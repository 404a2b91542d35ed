"""state.json of this version and of the one before it, which had no `format_version`."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from msanet.data.shuffle_order import ShuffleConfig
from msanet.run_layout import CheckpointLayout
from msanet.training.checkpoint.format import FORMAT_VERSION, RunState
from msanet.training.checkpoint.io import read_checkpoint, write_checkpoint
from support.errors import raises_user_error
from support.small_runs import toy_checkpoint

VERSION_1 = """{
 "step": 3, "consumed": 12, "total_steps": 9,
 "plan": {"seed": 5, "lanes": 4, "window": 64, "block_bytes": 100, "drop": true},
 "world_size": 2, "dataset": "toy", "dataset_digest": "d", "optimizer": "adam", "versions": {"msanet": "0.1.0"},
 "best": {"step": 2, "mean_iou": 0.5}, "owes_validation": true, "micro_batch": 2
}"""
"""As commit f5177a0 wrote it."""


def test_version_1_is_read_as_what_it_meant() -> None:
    state = RunState.model_validate_json(VERSION_1)
    assert (state.format_version, state.step, state.consumed_samples, state.micro_batch_size) == (
        FORMAT_VERSION,
        3,
        12,
        2,
    )
    assert state.shuffle == ShuffleConfig(5, streams=4, shuffle_window=64, shuffle_block_bytes=100, drop_last=True)
    assert state.validation_pending and state.best and state.best.step == 2
    assert RunState.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize(
    "tree", [[], {"plan": 3}, {"format_version": 1, "plan": {"lanes": 4}}, {"format_version": "x"}]
)
def test_anything_else_is_invalid(tree: object) -> None:
    with pytest.raises(ValidationError):
        RunState.model_validate_json(json.dumps(tree))


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, toy_checkpoint(), keep=1)
    path = folder / CheckpointLayout.STATE
    tree = json.loads(path.read_text()) | {"format_version": FORMAT_VERSION + 1, "versions": {"msanet": "9.9"}}
    path.write_text(json.dumps(tree))
    with raises_user_error("MSA-CKPT-004", setting="run.dir", mentions="msanet 9.9"):
        read_checkpoint(folder)
