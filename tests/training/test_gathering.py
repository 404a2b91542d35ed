"""What a save costs the ranks that do not write: nothing of it stays with them."""

import json
from pathlib import Path
from unittest import mock

import torch

from msanet import distributed
from msanet.training.checkpoint.checkpointer import all_running_statistics
from msanet.training.engine import zero_state
from msanet.training.engine.batchnorm_statistics import averaged_over_ranks
from support.ranks import run_ranks
from support.small_runs import run_steps, small_config, start


def _gather(shards: str) -> None:
    for stage in range(4):
        trainer = start(small_config(shards, stage))
        run_steps(trainer, 1)
        with mock.patch.object(zero_state, "_on_cpu", wraps=zero_state._on_cpu) as on_cpu:
            saved = trainer.checkpoint()
        copied = [torch.as_tensor(call.args[0]).numel() for call in on_cpu.call_args_list]
        assert trainer.ema is not None and saved.ema is not None
        with averaged_over_ranks(all_running_statistics(trainer.engine, trainer.ema)):
            everywhere = zero_state.gather_weights(trainer.engine, everywhere=True)
            average = trainer.ema.weights(everywhere=True)
        assert average.keys() == everywhere.keys() == trainer.engine.module.state_dict().keys()
        if distributed.is_main():
            parameters = [name for name, _ in trainer.engine.module.named_parameters()]
            assert all(torch.equal(tensor, saved.weights[name]) for name, tensor in everywhere.items())
            assert all(torch.equal(tensor, saved.ema[name]) for name, tensor in average.items())
            assert list(saved.optimizer) == parameters and list(saved.rng) == ["0.cpu", "1.cpu"]
            assert all(saved.optimizer[name]["exp_avg"].shape == everywhere[name].shape for name in parameters)
        found = [len(part) for part in (saved.weights, saved.ema, saved.optimizer, saved.rng, saved.buffers)]
        print(json.dumps({"stage": stage, "found": found, "largest": max(copied, default=0)}))


def test_what_is_saved_is_on_rank_0_alone(shards: Path) -> None:
    """Rank 1 takes part, copies no tensor of the network into its host's memory, and holds nothing of the result."""
    outputs = run_ranks(2, __file__, "_gather", {"shards": str(shards)})
    first, second = ([json.loads(line) for line in said.splitlines() if line.startswith("{")] for said in outputs)
    assert len(first) == len(second) == 4
    assert all(all(stage["found"]) and stage["largest"] > 1000 for stage in first)
    assert all(stage["found"] == [0] * 5 and stage["largest"] <= 1 for stage in second)
