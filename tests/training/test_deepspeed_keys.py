"""A typo in DeepSpeed's own settings is an error, and none of its names is taken for one."""

import deepspeed
import pytest
from pydantic import ValidationError

from msanet.training.engine.deepspeed_keys import first_fault, require_known_keys
from support.errors import raises_user_error

assert deepspeed.__version__
KNOWN = """
activation_checkpointing amp aio bf16 fp16 comms_logger communication_data_type compression_training csv_monitor
curriculum_learning data_efficiency data_types dataloader_drop_last disable_allgather dump_state elasticity flops_profiler
gradient_clipping gradient_predivide_factor hybrid_engine memory_breakdown nebula optimizer pipeline prescale_gradients
progressive_layer_drop scheduler sparse_attention sparse_gradients steps_per_print tensor_parallel tensorboard timers
torch_autocast train_batch_size use_data_before_expert_parallelism wall_clock_breakdown wandb zero_optimization
zero_allow_untested_optimizer zero_force_ds_cpu_optimizer autotuning checkpoint compile eigenvalue
"""


def test_every_name_of_deepspeeds_documentation_is_known() -> None:
    require_known_keys(dict.fromkeys(KNOWN.split(), {}))
    require_known_keys({"checkpoint": {"tag_validation": "Warn", "load_universal": True, "parallel_write": {}}})
    require_known_keys({"timers": {"throughput": {"enabled": True}}, "data_types": {"grad_accum_dtype": "fp32"}})


@pytest.mark.parametrize(
    ("own", "setting", "advice"),
    [
        ({"zero_optimisation": {}}, "deepspeed.zero_optimisation", "'zero_optimization'"),
        ({"prescale_gradient": True}, "deepspeed.prescale_gradient", "'prescale_gradients'"),
        ({"wall_clock_breakdwon": True}, "deepspeed.wall_clock_breakdwon", "'wall_clock_breakdown'"),
        ({"data_types": {"grad_acum_dtype": "fp32"}}, "deepspeed.data_types.grad_acum_dtype", "'grad_accum_dtype'"),
        ({"xyzzy": 1}, "deepspeed.xyzzy", "documentation"),
    ],
)
def test_a_typo_is_refused(own: dict[str, object], setting: str, advice: str) -> None:
    with raises_user_error("MSA-TRAIN-403", setting, advice):
        require_known_keys(own)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"overlap_com": True}, "unknown name 'overlap_com'"),
        ({"stage": 7}, "stage is 7, expected 0, 1, 2"),
        ({"overlap_comm": "x"}, "overlap_comm is x, expected true or false"),
        ({"reduce_bucket_size": -1}, "reduce_bucket_size is -1, expected a number above 0"),
    ],
)
def test_what_deepspeed_itself_refuses_is_said_in_our_words(own: dict[str, object], words: str) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    with pytest.raises(ValidationError) as caught:
        DeepSpeedZeroConfig(**own)
    assert words in first_fault(caught.value)
