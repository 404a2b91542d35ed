"""Our loader in the loops of torchdata, Lightning, Accelerate and transformers."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from msanet.data import Loader, ShardDataset

EPOCH = [(0, number) for number in range(26)]


def loader_for(shards: Path, **options: Any) -> Loader:
    return Loader(ShardDataset(shards, crop=(32, 32)), **{"batch_size": 4, "num_workers": 0, **options})


def pairs(batch: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    return list(zip(batch["epochs"].tolist(), batch["samples"].tolist(), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_saves_and_restores_the_dataset(shards: Path, workers: int) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def stateful() -> Any:
        return torchdata.StatefulDataLoader(
            ShardDataset(shards, crop=(8, 8)),
            batch_size=4,
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,
        )

    first, seen = stateful(), list[tuple[int, int]]()
    for step, batch in enumerate(first, 1):
        assert batch["images"].shape[1:] == (3, 8, 8)
        seen += pairs(batch)
        if step == 3:
            break
    second = stateful()
    second.load_state_dict(first.state_dict())
    seen += [pair for batch in second for pair in pairs(batch)]
    assert sorted(seen) == EPOCH
    if not workers:
        assert {epoch for batch in second for epoch, _ in pairs(batch)} == {1}


def test_lightning_saves_and_restores_the_loader(shards: Path, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    base: Any = lightning.LightningModule
    seen = list[tuple[int, int]]()

    class Module(base):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 11, 1)

        def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            seen.extend(pairs(batch))
            return nn.functional.cross_entropy(self.layer(batch["images"]), batch["labels"], ignore_index=255)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    def fit(checkpoint: str | None = None, **limit: int) -> None:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        save = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
        trainer = lightning.Trainer(**quiet, **limit, callbacks=[save])
        trainer.fit(Module(), loader_for(shards), ckpt_path=checkpoint)

    fit(max_steps=11)
    for step, samples in ((10, 38), (7, 26)):  # in the second epoch, and at the end of the first
        del seen[samples:]
        fit(str(tmp_path / f"step={step}.ckpt"), max_epochs=3)
        assert sorted(seen) == [(epoch, number) for epoch in range(3) for _, number in EPOCH]


def test_accelerate_leaves_the_sharding_alone(shards: Path, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    loader = accelerator.prepare(loader_for(shards, rank=1, world_size=2, device=accelerator.device))
    accelerator.register_for_checkpointing(loader)
    rank_1 = [pair for batch in loader for pair in pairs(batch)]
    rank_0 = [pair for batch in loader_for(shards, rank=0, world_size=2) for pair in pairs(batch)]
    assert sorted(rank_0 + rank_1) == EPOCH
    accelerator.save_state(str(tmp_path))
    next(iter(loader))
    accelerator.load_state(str(tmp_path))
    assert loader.state_dict()["consumed_samples"] == 26


def test_transformers_trains_with_the_loader(shards: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    base: Any = transformers.Trainer
    config = transformers.SegformerConfig(
        num_labels=11, depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8
    )
    loader, seen = loader_for(shards, output="transformers"), Counter[str]()

    class Trainer(base):
        def get_train_dataloader(self) -> Any:
            return loader

        def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            assert inputs.keys() == {"pixel_values", "labels"}
            seen["images"] += len(inputs["labels"])
            return super().compute_loss(model, inputs, *args, **kwargs)

    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True
    )
    trainer = Trainer(transformers.SegformerForSemanticSegmentation(config), arguments)
    trainer.train()
    assert seen["images"] == 52 and trainer.state.global_step == 14 and loader.epoch == 2
