"""Networks from elsewhere in the engine: recomputed activations and frozen parameters change no number at any ZeRO stage."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import REPOSITORY
from msanet import distributed
from msanet.training.engine.zero_state import gather_weights
from support.ranks import run_ranks
from support.small_runs import run_steps, small_config, start

BLOCKS = f"{REPOSITORY}/tests/models/external_networks.py:Blocks"


def _train(shards: str, out: str, stage: int, recompute: bool) -> None:
    config = small_config(shards, stage, BLOCKS)
    trainer_config = config.trainer.model_copy(update={"activation_checkpointing": recompute, "sync_batchnorm": True})
    deepspeed = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}  # small parameters are partitioned too
    trainer = start(config.model_copy(update={"trainer": trainer_config, "deepspeed": deepspeed}))
    run_steps(trainer, 3)
    weights = gather_weights(trainer.engine)
    distributed.on_main(lambda: save_file({name: tensor.contiguous() for name, tensor in weights.items()}, out))


@pytest.mark.parametrize("stage", [0, 3])
def test_recomputed_activations_change_no_number(shards: Path, tmp_path: Path, stage: int) -> None:
    """With dropout, synchronized BatchNorm, and a parameter of each block that stage 3 has to gather for it."""
    results = []
    for recompute in (False, True):
        out = tmp_path / f"{recompute}.safetensors"
        run_ranks(
            2, __file__, "_train", {"shards": str(shards), "out": str(out), "stage": stage, "recompute": recompute}
        )
        results.append(load_file(out))
    plain, recomputed = results
    assert plain.keys() == recomputed.keys() and any("blocks.0.scale" in name for name in plain)
    assert [name for name in plain if not torch.equal(plain[name], recomputed[name])] == []
    assert not torch.equal(plain["network.blocks.0.scale"], torch.full((8, 1, 1), 0.5))
