"""Out of memory, in whatever library, is advice in one sentence and no failure to restart; so is BatchNorm of a single value."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from msanet.config import Config, parse_config
from msanet.data.loader import plan_batches
from msanet.distributed.supervisor import _FINAL
from msanet.errors import EXIT_USER_ERROR, UserError
from msanet.models import build_model
from msanet.training import train as story
from msanet.training.memory.auto_batch_size import largest_micro_batch
from msanet.training.memory.estimate import StepMemory, step_memory
from msanet.training.memory.out_of_memory import memory_suggestions
from support.errors import raises_user_error
from support.small_runs import small_config


def _fail(error: Exception) -> None:
    raise error


OPENCV = (
    "Caught error in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\ncv2.error: \
OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 10800000000 bytes\n"
)


@pytest.mark.parametrize(
    ("allocate", "mentions"),
    [
        (lambda: torch.empty(2**54), "can't allocate memory"),
        (lambda: np.empty(2**54), "Unable to allocate"),
        (lambda: _fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")), "2.00 GiB"),
        (lambda: _fail(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")), "CUBLAS"),
        (lambda: _fail(MemoryError()), "MemoryError"),
        (lambda: _fail(Exception(OPENCV)), "Failed to allocate 10800000000"),
    ],
)
def test_what_a_library_raises_becomes_advice(
    allocate: Callable[[], object], mentions: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(str(shards), stage=0)
    monkeypatch.setattr(story, "_start", lambda *_: allocate())
    with raises_user_error("MSA-TRAIN-601", mentions=mentions) as caught:
        story.train(config.model_copy(update={"run": config.run.model_copy(update={"dir": tmp_path})}))
    assert "trainer.activation_checkpointing=true" in str(caught.value) and "\n" not in str(caught.value)
    assert EXIT_USER_ERROR in _FINAL  # not restarted


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), UserError("MSA-X-001", "DefaultCPUAllocator")])
def test_other_errors_stay(error: Exception, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "_start", lambda *_: _fail(error))
    config = small_config(str(shards), stage=0)
    with pytest.raises(type(error)) as caught:
        story.train(config.model_copy(update={"run": config.run.model_copy(update={"dir": tmp_path})}))
    assert caught.value is error


def test_only_what_is_not_set_yet_is_suggested() -> None:
    config = parse_config({"trainer": {"micro_batch_size": 1, "activation_checkpointing": True}}, "test")
    assert memory_suggestions(config) == ["a smaller data.crop"]


def _step_memory(images: int, crop: int) -> StepMemory:
    plan = plan_batches(images, None, 1)
    return step_memory(lambda: build_model("unet", 3, width=0.05), Config(), (5, 5, 5), plan, (crop, crop))


@pytest.mark.parametrize("crop", [16, 8])
def test_batchnorm_of_a_single_value_is_one_sentence(crop: int) -> None:
    """A training step and doctor's estimate of it run the same function."""
    with raises_user_error("MSA-TRAIN-602", mentions=f"1 image of {crop}x{crop}"):
        _step_memory(1, crop)
    assert _step_memory(2, crop).total > 0


def test_an_automatic_micro_batch_is_not_that_of_a_single_value() -> None:
    most = plan_batches(2, "auto", 1)
    plan = largest_micro_batch(Config(), most, lambda count: _step_memory(count, 16), free=1e12)
    assert plan.micro_batch_size == 2
