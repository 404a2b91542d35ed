"""`trainer.micro_batch_size=auto`: the largest micro-batch that divides a rank's images and fits its device."""

import logging
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from msanet import distributed
from msanet.config import Config
from msanet.data.loader import BatchPlan, batch_plan
from msanet.data.manifest import Manifest
from msanet.errors import UserError
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.memory.available import smallest_free_memory
from msanet.training.memory.estimate import StepMemory, gigabytes, step_memory, suggestions
from msanet.training.network import build_for_estimate

logger = logging.getLogger(__name__)

_MARGIN, _RUNTIME = 1.15, 1e9
"""For what the estimate does not see: its own error and the allocator's fragments; kernels' workspaces and NCCL's buffers."""


def choose_batch_plan(config: Config, manifest: Manifest, saved: Checkpoint | None) -> BatchPlan:
    """The batches of a run; with trainer.micro_batch_size=auto those that fit, the same on all ranks. A collective.

    The micro-batch of a checkpoint is taken again if it fits without the margin, since BatchNorm depends on it.
    """
    most = batch_plan(config, distributed.world_size())
    if config.trainer.micro_batch_size != "auto":
        return most
    free = smallest_free_memory()
    before = saved.state.micro_batch_size if saved else None
    return distributed.on_main(partial(_choose, config, manifest, most, free, before))


def largest_micro_batch(
    config: Config, most: BatchPlan, needed: Callable[[int], StepMemory], free: float, before: int | None = None
) -> BatchPlan:
    """`most` with the largest micro-batch that fits into `free` bytes; or with the one `before`, if that fits.

    most: batches with all of a rank's images in one micro-batch. needed: memory of a step by the images of a micro-batch.
    Raises UserError if not even one image fits.
    """
    share = most.micro_batch_size
    if before and share % before == 0 and needed(before).total <= free:
        return replace(most, micro_batch_size=before)
    sizes = [count for count in range(1, share + 1) if share % count == 0]
    fitting = bisect_right(sizes, free, key=lambda count: _with_margin(needed(count)))
    if not fitting:
        one = needed(1)
        raise UserError(
            "MSA-TRAIN-005",
            f"trainer.micro_batch_size=auto: one image takes about {gigabytes(_with_margin(one))} GB a rank ({one.parts}; the "
            f"rest is margin), expected no more than the {gigabytes(free)} GB that are free; set "
            f"{', or '.join(suggestions(one, config))}",
            setting="trainer.micro_batch_size",
        )
    return replace(most, micro_batch_size=sizes[fitting - 1])


def step_needs(
    config: Config, manifest: Manifest, most: BatchPlan, size: tuple[int, int], device: str
) -> Callable[[int], StepMemory]:
    """The memory of a step by the images of its micro-batches; estimated once for each number."""
    build = partial(build_for_estimate, config, manifest.num_classes)
    histogram = manifest.split(config.data.train_split).histogram

    @cache
    def needed(count: int) -> StepMemory:
        distributed.report_progress("estimating the memory of a step", slow=True)
        return step_memory(build, config, histogram, replace(most, micro_batch_size=count), size, device)

    return needed


def _choose(config: Config, manifest: Manifest, most: BatchPlan, free: float, before: int | None) -> BatchPlan:
    size = config.data.crop or config.data.resize
    if size is None:
        raise UserError(
            "MSA-TRAIN-006",
            "trainer.micro_batch_size=auto needs the size of the images, expected data.crop or data.resize; set one of them, or "
            "trainer.micro_batch_size to a number",
            setting="trainer.micro_batch_size",
        )
    needed = step_needs(config, manifest, most, size, distributed.device().type)
    batches = largest_micro_batch(config, most, needed, free, before)
    images, memory = batches.micro_batch_size, needed(batches.micro_batch_size)
    logger.info(
        f"trainer.micro_batch_size=auto: {images} of {most.micro_batch_size} images, about {gigabytes(memory.total)} of "
        f"{gigabytes(free)} GB ({memory.parts})"
    )
    if before and before != images:
        logger.warning(
            f"micro-batches of {before} images, which this run had before, no longer fit; BatchNorm statistics will be computed "
            f"over {images}"
        )
    return batches


def _with_margin(memory: StepMemory) -> float:
    return _MARGIN * memory.total + _RUNTIME
