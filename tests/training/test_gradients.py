"""The same gradients for any ranks x micro-batch x accumulation: the loss is normalized over the global batch."""

from functools import partial
from pathlib import Path

import pytest
import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from msanet import distributed
from msanet.config import parse_config
from msanet.data.loader import plan_batches
from msanet.data.manifest import load_manifest
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.models import build_model
from msanet.training.engine.sync_batchnorm import CpuSyncBatchNorm, convert_sync_batchnorm
from msanet.training.trainer import Trainer
from support.ranks import run_ranks
from support.small_runs import run_steps, small_config, start, validate

# Those that sort pixels have another gradient where rounding swaps two: tests/test_losses.py cuts batches for them.
WEIGHTED = {
    "dice": 0.5,
    "class_weights": "median_frequency",
    "focal": 0.5,
    "tversky": 0.5,
    "boundary": 0.5,
    "custom": [f"{Path(__file__).parent.parent}/own_losses.py:{name}" for name in ("squared_error", "OfImages")],
}


def _step(
    shards: str, out: str, micro: int | None, norm: str, network: str = "msanet", engine: str = "deepspeed"
) -> None:
    """One SGD step of lr 1 without momentum, so that the weights moved by the gradient; rank 0 writes them."""
    config = parse_config(
        {
            "data": {"path": shards, "crop": [40, 48], "random_scale": [0.5, 1.0], "num_workers": 0},
            "optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0.0},
            "schedule": {"name": "constant"},
            "loss": {} if network == "msanet" else WEIGHTED,
            "trainer": {
                "steps": 1,
                "engine": engine,
                "global_batch_size": 8,
                "micro_batch_size": micro,
                "sync_batchnorm": norm == "sync",
            },
        },
        "test",
    )
    manifest = load_manifest(Path(shards))
    torch.manual_seed(0)
    # float64, so that only a wrong formula can make a difference; DeepSpeed's reduction must be told that it may
    options = {} if network == "msanet" else {"auxiliary": True}
    model = build_model(network, manifest.num_classes, width=0.125, **options).double()
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    get_accelerator().supported_dtypes = lambda: [torch.float32, torch.float64]
    if norm == "frozen":  # statistics of no batch at all
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train = partial(_unchanged, module)  # type: ignore[method-assign, assignment]
                module.training = False
    batches = plan_batches(8, micro, distributed.world_size())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = Trainer(config, manifest, model, batches, None)
    trainer.train_step(next(trainer.global_batches()))
    figures = trainer.metrics()
    if distributed.is_main():
        moved = {name: before[name] - p.detach() for name, p in trainer.engine.module.named_parameters()}
        torch.save({"gradient": moved, "loss": figures["loss"]}, out)


def gradient(
    shards: Path, out: Path, world: int, micro: int | None, norm: str, network: str = "msanet", **more: str
) -> dict:
    arguments = {"shards": str(shards), "out": str(out), "micro": micro, "norm": norm, "network": network, **more}
    run_ranks(world, __file__, "_step", arguments)
    return torch.load(out, weights_only=True)


def assert_same(a: dict, b: dict) -> None:
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-9)
    for name, gradient in a["gradient"].items():
        scale = float(gradient.abs().max())  # a small element may be a difference of large ones
        torch.testing.assert_close(gradient, b["gradient"][name], rtol=1e-5, atol=1e-8 * max(1.0, scale))
    assert sum(float(gradient.norm()) for gradient in a["gradient"].values()) > 0


def test_gradients_with_synchronised_batchnorm(shards: Path, tmp_path: Path) -> None:
    """1x8, 2x4 and 4x2 ranks x micro-batch; crops have padding, so that labelled pixels are unequally held."""
    whole = gradient(shards, tmp_path / "1", 1, None, "sync")
    for world in (2, 4):
        assert_same(whole, gradient(shards, tmp_path / str(world), world, None, "sync"))


def test_gradients_with_accumulation(shards: Path, tmp_path: Path) -> None:
    """1x8 in one pass, in four, and on two ranks in two; BatchNorm frozen, since it sees one micro-batch at a time."""
    whole = gradient(shards, tmp_path / "a", 1, 8, "frozen")
    assert_same(whole, gradient(shards, tmp_path / "b", 1, 2, "frozen"))
    assert_same(whole, gradient(shards, tmp_path / "c", 2, 2, "frozen"))
    assert_same(whole, gradient(shards, tmp_path / "d", 2, 1, "frozen", engine="ddp"))


def test_gradients_with_an_auxiliary_head_class_weights_and_dice(shards: Path, tmp_path: Path) -> None:
    whole = gradient(shards, tmp_path / "a", 1, 8, "frozen", "deeplabv3")
    assert_same(whole, gradient(shards, tmp_path / "b", 2, 2, "frozen", "deeplabv3"))
    assert whole["gradient"]["auxiliary.1.weight"].abs().max() > 0


def _unchanged(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _compare_batchnorm() -> None:
    """Our BatchNorm on unequal shares of a batch equals torch's on the whole: output, gradients, running statistics."""
    rank = distributed.rank()
    torch.manual_seed(0)
    x, dy = torch.randn(5, 4, 3, 6) * 2 + 1, torch.randn(5, 4, 3, 6)
    share = slice(0, 2) if rank == 0 else slice(2, 5)
    whole, split = nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4))
    nn.init.uniform_(whole.weight)
    nn.init.uniform_(whole.bias)
    split[0].load_state_dict(whole.state_dict())
    convert_sync_batchnorm(split, torch.device("cpu"))
    assert isinstance(split[0], CpuSyncBatchNorm)
    a, b = x.clone().requires_grad_(), x[share].clone().requires_grad_()
    expected, output = whole(a), split(b)
    expected.backward(dy)
    output.backward(dy[share])
    torch.testing.assert_close(output, expected[share])
    assert a.grad is not None
    torch.testing.assert_close(b.grad, a.grad[share])
    for name in ("weight", "bias"):
        gradient = getattr(split[0], name).grad
        torch.testing.assert_close(distributed.all_reduce_sum(gradient), getattr(whole, name).grad)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(split[0], name), getattr(whole, name))
    print("compared")


def test_synchronised_batchnorm_equals_one_big_batch() -> None:
    assert all("compared" in said for said in run_ranks(2, __file__, "_compare_batchnorm", {}))


def _average_buffers(shards: str) -> None:
    for stage in (0, 3):
        _average_buffers_at(shards, stage)
    print("compared")


def _average_buffers_at(shards: str, stage: int) -> None:
    """Ranks that saw other images have other running statistics, and still have when they were saved and judged as one."""
    trainer = start(small_config(shards, stage))
    trainer.ema = trainer.checkpointer._ema = None
    run_steps(trainer, 1)
    held = {name: buffer for name, buffer in trainer.engine.module.named_buffers() if buffer.is_floating_point()}
    own = {name: buffer.clone() for name, buffer in held.items()}
    first, second = distributed.gather_objects(own)
    assert all(not torch.equal(first[name], second[name]) for name in own), "the ranks saw the same images"
    mean = {name: (first[name] + second[name]) / 2 for name in own}
    saved = trainer.checkpoint()
    if distributed.is_main():
        assert saved.buffers.keys() == own.keys()
        assert all(torch.equal(saved.buffers[name], torch.stack([first[name], second[name]])) for name in own)
        assert all(torch.equal(saved.weights[name], mean[name]) for name in own)
    source = ShardSource(LocalStorage(Path(shards)), "val", trainer.manifest)
    for end in (False, True, KeyError("a fault")):  # whole, given up, and with an error

        def should_stop(end: bool | Exception = end) -> bool:
            assert all(torch.equal(held[name], mean[name]) for name in own), "what is judged has the mean"
            if isinstance(end, Exception):
                raise end
            return end

        try:
            assert (validate(trainer, source, should_stop) is None) == end
        except KeyError:
            assert isinstance(end, KeyError)
        assert all(torch.equal(held[name], own[name]) for name in own), (stage, end)
    run_steps(trainer, 1)  # parameters that ZeRO-3 gathered in inference mode are not used again


def test_running_statistics_are_averaged_only_for_saving_and_evaluation(shards: Path) -> None:
    assert all("compared" in said for said in run_ranks(2, __file__, "_average_buffers", {"shards": str(shards)}))
