"""A steady step: copies beside the computation, no wait for the device, memory order, and reductions only where due."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from msanet import distributed
from msanet.config import Config
from msanet.data.pipeline import Batch
from msanet.training.engine import zero_state
from msanet.training.engine.device_prefetcher import DevicePrefetcher
from msanet.training.engine.device_settings import apply_device_settings, without_cudnn_benchmark
from msanet.training.trainer import Trainer
from support.networks import STRUCTURES, images, network
from support.ranks import run_ranks
from support.small_runs import run_steps, small_config, start


def _batch() -> Batch:
    pixels = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    return Batch(pixels, pixels[..., 0], torch.ones(1, 3), torch.zeros(1), torch.zeros(1))


class _Streams:
    """Stands for torch.cuda where there is none, and notes what is done on which stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes: list[str] = []
        self.present = "main"
        monkeypatch.setattr("torch.cuda.Stream", lambda device: "side")
        monkeypatch.setattr("torch.cuda.stream", self.on)
        monkeypatch.setattr("torch.cuda.current_stream", lambda device: self)
        monkeypatch.setattr(Batch, "to", self.copy)
        monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: self.notes.append("held by main"))

    @contextmanager
    def on(self, stream: str) -> Iterator[None]:
        self.present = stream
        yield
        self.present = "main"

    def copy(self, device: Any) -> Batch:
        self.notes.append(f"copied on {self.present}")
        return _batch()

    def wait_stream(self, stream: str) -> None:
        self.notes.append(f"waited for {stream}")


def test_batches_are_copied_on_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = _Streams(monkeypatch)
    staging, first, second = DevicePrefetcher(torch.device("cuda")), [_batch(), _batch()], [_batch()]
    staging.send(first)
    assert streams.notes == ["copied on side"] * 2
    assert len(staging.take(first)) == 2
    assert streams.notes[2:] == ["waited for side"] + ["held by main"] * 10  # 5 tensors of each
    streams.notes.clear()
    staging.send(second)
    assert len(staging.take(first)) == 2  # others than those that were sent
    assert streams.notes == ["copied on side", "copied on main", "copied on main"]


def test_without_a_gpu_batches_stay_where_they_are() -> None:
    staging, batches = DevicePrefetcher(torch.device("cpu")), [_batch()]
    staging.send(batches)
    assert staging.take(batches)[0].images_NHWC is batches[0].images_NHWC


@pytest.mark.parametrize("case", STRUCTURES)
def test_activations_are_channels_last_in_all_of_a_network(case: str) -> None:
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not all(x.is_contiguous(memory_format=torch.channels_last) for x in (inputs[0], output)):
                found.append(name)

        return note

    model = network(case).train()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            module.register_forward_hook(look(name))
    for weights_are in (torch.contiguous_format, torch.channels_last):
        model.to(memory_format=weights_are)  # type: ignore[call-overload]
        model(images(2, 50, 70).contiguous(memory_format=torch.channels_last))
        assert not found, (weights_are, found)


def test_kernels_are_chosen_in_one_place() -> None:
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined] # it is set when it is imported
    before = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        for tf32, crop in ((True, [32, 32]), (False, None)):
            apply_device_settings(Config.model_validate({"trainer": {"tf32": tf32}, "data": {"crop": crop}}))
            assert cuda.allow_tf32 == cudnn.allow_tf32 == tf32 and cudnn.benchmark == (crop is not None)
            assert mkldnn.fp32_precision != "tf32", "CPUs compute as before"
            with without_cudnn_benchmark():
                assert not cudnn.benchmark
            assert cudnn.benchmark == (crop is not None)
    finally:
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


class _NoWaiting(TorchDispatchMode):
    """Raises where a GPU would wait for its host or the host for it: at `.item()` and the like, and numbers sent to it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default), function
        return function(*args, **(kwargs or {}))


def _with(config: Config, **trainer: Any) -> Config:
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=trainer)})


def _never_waits(shards: str) -> None:
    config = small_config(shards, stage=0)
    run = start(config.model_copy(update={"data": config.data.model_copy(update={"brightness": 0.5})}))
    stream = run.global_batches()
    for _ in range(2):
        run.train_step(next(stream))
    micro_batches = next(stream)
    with _NoWaiting(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(1).item()
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("error")
    with _NoWaiting():
        run.train_step(micro_batches)
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")
    assert run.state.step == 3 and not run.engine.tput_timer.config.enabled


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_never_waited_for(shards: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    command = [sys.executable, __file__, str(shards)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "done" in done.stdout, done.stderr


def _reduces_when_due(shards: str) -> None:
    """Of three micro-batches in a step, those in whose backward gradients travel, by stage."""
    backend, travelled = deepspeed.comm.comm.cdb, []
    names = ("all_reduce", "reduce", "reduce_scatter_tensor", "all_gather_into_tensor", "all_gather", "broadcast")

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any, **kwargs: Any) -> Any:
            travelled.append(function.__name__)
            return function(*args, **kwargs)

        return note

    for name in names:
        setattr(backend, name, noted(getattr(backend, name)))
    for stage, due in ((0, [False, False, True]), (1, [False, False, True]), (2, [True, True, True])):
        run = start(_with(small_config(shards, stage, "unet"), micro_batch_size=1, ema_decay=0.0))
        run_steps(run, 1)
        backward = run.engine.backward
        found: list[bool] = []

        def counted(loss: Tensor, backward: Any = backward, found: list[bool] = found) -> None:
            travelled.clear()
            backward(loss)
            found.append(bool(travelled))

        run.engine.backward = counted
        run_steps(run, 1)
        assert found == due, (stage, found)
    for name in names:
        delattr(backend, name)


def _orders_of_memory_agree(shards: str) -> None:
    """The same training in either order, and half in one, half in the other through a checkpoint.

    But for rounding, of which Adam makes a step of 0.001 where a gradient is nearly zero: so the mean is what is compared.
    """
    for stage in (0, 1, 3):
        ends: list[dict[str, Tensor]] = []
        for first, second in ((True, True), (False, True), (True, False)):
            config = small_config(shards, stage, "unet")
            run = start(_with(config, channels_last=first))
            run_steps(run, 1)
            assert _is_channels_last(run) == (first and stage == 0)
            saved = run.checkpoint()
            box = distributed.gather_objects(saved)[0]
            again = start(_with(config, channels_last=second), box)
            run_steps(again, 1)
            ends.append(zero_state.gather_weights(again.engine, everywhere=True))
        for end in ends[1:]:
            for name, tensor in ends[0].items():
                apart = (end[name].float() - tensor.float()).abs()
                assert apart.mean() < 5e-5 and apart.max() < 1e-2, (stage, name, apart.mean(), apart.max())


def _is_channels_last(run: Trainer) -> bool:
    weight = run.engine.module.encoder[1][0][0].weight
    return weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def _steady_steps(shards: str) -> None:
    _never_waits(shards)
    _reduces_when_due(shards)
    _orders_of_memory_agree(shards)
    print("done")


def test_steady_steps_of_two_ranks(shards: Path) -> None:
    """No wait for the device, no reduction before its time, either order of memory: one job, since a start takes long."""
    assert all("done" in said for said in run_ranks(2, __file__, "_steady_steps", {"shards": str(shards)}))


if __name__ == "__main__":
    with distributed.exiting_session(distributed.Timeouts()):
        _never_waits(sys.argv[1])
        print("done")
