"""One training step of the same network in other ways: as the paper would write it, as a plain loop or DDP, and ours."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from paper import as_written
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from msanet import distributed
from msanet.config import Config, parse_config
from msanet.data.image.color import normalize
from msanet.data.loader import BatchPlan, plan_batches
from msanet.data.manifest import Manifest, ShardInfo, SplitInfo
from msanet.data.pipeline import Batch
from msanet.models import build_model
from msanet.models.attention import kernels
from msanet.models.msam import MSAM
from msanet.training.memory.estimate import step_memory
from msanet.training.trainer import Trainer

CLASSES, MEAN, STD = 21, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
Step = Callable[[], object]


def images_per_second(step: Step, images: int, steps: int, now: Callable[[], float]) -> float:
    """Of so many steps of `images` images. now: a clock, in seconds, that waits for what was begun."""
    start = now()
    for _ in range(steps):
        step()
    return images * steps / (now() - start)


def random_batch(images: int, size: tuple[int, int]) -> Batch:
    """What a loader would give, of noise, in page-locked memory where there is a GPU."""
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        images_NHWC=torch.randint(256, (images, *size, 3), dtype=torch.uint8, generator=generator),
        labels_NHW=torch.randint(CLASSES, (images, *size), dtype=torch.uint8, generator=generator),
        jitter_N3=torch.ones(images, 3),
        epochs_N=torch.zeros(images, dtype=torch.long),
        samples_N=torch.arange(images),
    )
    return batch.pin_memory() if torch.cuda.is_available() else batch


def network(width: float, other: Mapping[str, Any] | None = None) -> nn.Module:
    """MSANet, or what these settings of the section `model` say, with the same weights each time."""
    torch.manual_seed(0)
    if other is None:
        return build_model("msanet", CLASSES, width=width)
    return build_model(other["name"], CLASSES, **{key: value for key, value in other.items() if key != "name"})


def paper_loop(batch: Batch, width: float) -> Step:
    """float32, NCHW, the explicit attention, Adam one tensor at a time, and the loss read after each step."""
    device = distributed.device()
    model = as_written(network(width)).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, foreach=False)

    def step() -> float:
        images = normalize(batch.images_NHWC.to(device), MEAN, STD).contiguous()
        loss = F.cross_entropy(model(images), batch.labels_NHW.to(device).long(), ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def plain_loop(
    batch: Batch,
    width: float,
    precision: str = "fp32",
    ddp: bool | None = None,
    other: Mapping[str, Any] | None = None,
) -> Step:
    """Our network and kernels, or another (`other`), in a plain loop, fused Adam, channels_last.

    ddp: None: where there are several ranks.
    """
    device = distributed.device()
    model = network(width, other).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if distributed.world_size() > 1 if ddp is None else ddp:
        model = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        on_device = batch.to(device)
        images = normalize(on_device.images_NHWC, MEAN, STD)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), on_device.labels_NHW.long(), ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(
    batch: Batch, width: float, kernel: str | None = None, other: Mapping[str, Any] | None = None, **trainer: Any
) -> Step:
    """`Trainer.train_step`: the loss normalized over all ranks, the guard against numbers that are not finite, and all else.

    kernel: of attention, by its name in KERNELS, instead of the fastest; the step raises RuntimeError if it does not fit.
    other: settings of another network than MSANet.
    """
    config, plan = _our_config(batch, width, other, **trainer)
    run = Trainer(config, _manifest(), network(width, other), plan, None)  # type: ignore[arg-type]
    run.engine.module.train()
    if kernel is None:
        return lambda: run.train_step([batch])
    chosen: dict[kernels.AttentionCase, kernels.Choice] = {}

    def step() -> None:
        with only_kernel(kernel, chosen):
            run.train_step([batch])

    return step


def estimated_bytes(batch: Batch, width: float, **trainer: Any) -> float:
    """What the memory planner says of `our_step`."""
    config, plan = _our_config(batch, width, **trainer)
    build = partial(build_model, "msanet", CLASSES, width=width)
    size = (batch.images_NHWC.shape[1], batch.images_NHWC.shape[2])
    return step_memory(build, config, (1,) * CLASSES, plan, size, distributed.device().type).total


def _our_config(
    batch: Batch, width: float, other: Mapping[str, Any] | None = None, **trainer: Any
) -> tuple[Config, BatchPlan]:
    images, ranks = len(batch.images_NHWC), distributed.world_size()
    tree = {
        "data": {"path": "none", "crop": list(batch.images_NHWC.shape[1:3]), "mean": MEAN, "std": STD},
        "model": {"name": "msanet", "width": width} if other is None else {**other},
        "trainer": {"steps": 10**6, "global_batch_size": images * ranks, "loss_spike_std": 0, **trainer},
    }
    return parse_config(tree, "benchmark"), plan_batches(images * ranks, None, ranks)


@contextmanager
def only_kernel(name: str, chosen: dict[kernels.AttentionCase, kernels.Choice]) -> Iterator[None]:
    """Attention by this kernel alone; RuntimeError where it does not fit. chosen: what stays of one use for the next."""

    def refuse(*_: Tensor) -> NoReturn:
        raise RuntimeError(f"attention kernel {name} does not fit")

    candidates = {kind: (name,) for kind in kernels.CANDIDATES}
    instead = {} if name == kernels.CHUNKS else {kernels.CHUNKS: refuse}
    with (
        patch.dict(kernels.CANDIDATES, candidates),
        patch.dict(kernels.KERNELS, instead),
        patch.object(kernels, "_chosen", chosen),
    ):
        yield


@torch.no_grad()
def flop(model: nn.Module, image_NCHW: Tensor) -> tuple[float, float]:
    """Of convolutions, 3 times the forward pass, and of attention, 3.5 times, for one image; it may be a meta tensor."""
    counted = {"convolutions": 0.0, "attention": 0.0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            counted["convolutions"] += 3 * 2 * output.numel() * module.weight[0].numel()
        else:
            positions = output[0, 0].numel()
            counted["attention"] += 3.5 * 4 * positions**2 * output.shape[1]

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | MSAM)]
    model(image_NCHW)
    for hook in hooks:
        hook.remove()
    return counted["convolutions"], counted["attention"]


def _manifest() -> Manifest:
    """Of a dataset that nobody reads."""
    shard = ShardInfo(file="none.tar", samples=10**6, bytes=10**9, sha256="0" * 64)
    split = SplitInfo(samples=10**6, shards=(shard,), histogram=(1,) * CLASSES, ignored=0)
    return Manifest(
        name="noise",
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        palette=((0, 0, 0),) * CLASSES,
        ids=tuple(range(CLASSES)),
        ignore_index=255,
        codec="none",
        splits={"train": split, "val": split},
    )
