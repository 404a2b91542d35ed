"""A training step of a network of segmentation_models.pytorch: in Lightning, in a plain loop, and in our trainer.

    pip install 'msanet[smp]' lightning
    python benchmarks/lightning_step.py [--size H W] [--batch N] [--encoder NAME] [--rounds N] [--json FILE]

The same U-Net with the same weights takes the same batch of noise, uint8, normalized in the step; cross entropy and Adam for all;
one process and one thread, in turns. Lightning: `Trainer.fit` without logger, checkpoints and progress bar; with metrics: true
and false positives of every step by smp.metrics.get_stats, as in the library's examples. It keeps N, C, H, W and Adam of torch as
they are by default; the plain loop and our trainer use channels_last, and the loop fused Adam. CPU time of steps after the first.
"""

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402
from training_peers import (  # noqa: E402
    CLASSES,
    MEAN,
    STD,
    Step,
    images_per_second,
    network,
    our_step,
    plain_loop,
    random_batch,
)

from msanet import distributed  # noqa: E402
from msanet.data.pipeline import Batch  # noqa: E402

OURS = "our trainer"


def main() -> int:
    """Measure in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=(128, 128), metavar=("H", "W"), help="of the images")
    parser.add_argument("--batch", type=int, default=4, help="images of a step (default 4)")
    parser.add_argument("--encoder", default="resnet34", help="encoder of the U-Net (default resnet34)")
    parser.add_argument("--steps", type=int, default=3, help="of each subject in a round (default 3)")
    parser.add_argument("--rounds", type=int, default=7, help="each subject is timed once a round (default 7)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    with distributed.exiting_session(distributed.Timeouts.scaled(3600)):
        torch.set_num_threads(1)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        speeds = in_turns(subjects(args), args.rounds)
        ratios = {name: median_ratio(speeds[OURS], own) for name, own in speeds.items()}
        rows = [(name, statistics.median(own), ratios[name]) for name, own in speeds.items()]
        title = f"smp:Unet {args.encoder}, {args.batch} images of {args.size[0]} x {args.size[1]}"
        print_table((title, "images per CPU second", "ours, times as fast"), rows)
        versions = {library.__name__: library.__version__ for library in (lightning, smp)}
        write_json(args.json, {"images_per_second": speeds, "ratios": ratios, "versions": versions})
    return 0


def subjects(args: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Name to what times some steps, after a first one."""
    batch = random_batch(args.batch, tuple(args.size))
    other = {"name": "smp:Unet", "encoder_name": args.encoder}
    steps: dict[str, Step] = {
        "plain loop, channels_last, fused Adam": plain_loop(batch, 1, other=other),
        OURS: our_step(batch, 1, other=other),
    }
    for step in steps.values():
        step()
    fits = {"Lightning": False, "Lightning, with SMP's metrics": True}
    return {
        **{name: partial(fit, batch, Module(args.encoder, metrics), args.steps) for name, metrics in fits.items()},
        **{
            name: partial(images_per_second, step, args.batch, args.steps, time.process_time)
            for name, step in steps.items()
        },
    }


class Module(lightning.LightningModule):
    """As in the examples of segmentation_models.pytorch, with cross entropy, and normalized as in our trainer."""

    def __init__(self, encoder: str, metrics: bool) -> None:
        super().__init__()
        self.model = smp.Unet(encoder, encoder_weights=None, classes=CLASSES)
        same = network(1, {"name": "smp:Unet", "encoder_name": encoder})
        self.model.load_state_dict(same.network.state_dict())  # type: ignore[union-attr]
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        self.metrics = metrics
        self.outputs: list[Any] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self.model((images.float() - self.mean) / self.std)
        loss = F.cross_entropy(logits, labels.long(), ignore_index=255)
        if self.metrics:
            predicted = logits.softmax(dim=1).argmax(dim=1)
            self.outputs.append(smp.metrics.get_stats(predicted, labels.long(), mode="multiclass", num_classes=CLASSES))
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Clock(lightning.Callback):
    """CPU time from the end of the first step to that of the last."""

    begin = end = 0.0

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.end = time.process_time()
        if trainer.global_step == 1:
            self.begin = self.end


def fit(batch: Batch, module: Module, steps: int) -> float:
    """Images per CPU second of `steps` steps after a first one."""
    clock, pair = Clock(), (batch.images_NHWC.permute(0, 3, 1, 2).contiguous(), batch.labels_NHW)
    trainer = lightning.Trainer(
        max_steps=steps + 1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of loader processes, which there is nothing for
        trainer.fit(module, DataLoader([pair] * (steps + 1), batch_size=None))  # type: ignore[arg-type]
    module.outputs.clear()
    return len(batch.images_NHWC) * steps / (clock.end - clock.begin)


if __name__ == "__main__":
    sys.exit(main())
