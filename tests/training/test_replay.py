"""Too many skipped steps end the run with a failure dump, and the replay finds again what went wrong, on one process."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msanet import distributed
from msanet.cli.main import main
from msanet.config import read_yaml
from msanet.data.pipeline import network_input
from msanet.models import build_model
from msanet.models.io import ModelMetadata
from msanet.models.network import SegmentationNetwork
from msanet.training.nonfinite.failure_dump import DumpMetadata, FailureDump, read_failure_dump, write_failure_dump
from msanet.training.nonfinite.replay import replay
from support import ranks
from support.poison import PoisonedGradient, small_config, start
from support.small_runs import toy_checkpoint

STEP = 3


def spoil_one(model: nn.Module, mean: float, gradient: bool) -> None:
    """Make the stem's output not finite, or its gradient, for the one image whose mean is `mean`."""

    def spoil(module: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        is_it_N = (inputs[0].mean(dim=(1, 2, 3)) - mean).abs() < 1e-5
        if gradient:
            return PoisonedGradient.apply(output) if is_it_N.any() else output
        return torch.where(is_it_N.view(-1, 1, 1, 1), math.nan, output)

    stem(model)[1].register_forward_hook(spoil)


def stem(model: nn.Module) -> tuple[str, nn.Module]:
    return next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def _stop(shards: str, folder: str, gradient: bool, trainer_settings: dict[str, Any]) -> None:
    """In step 3 one image of rank 1 spoils its step, and one skipped step is too many."""
    config = small_config(shards, max_nonfinite_steps=0, **trainer_settings)
    trainer = start(config.model_copy(update={"run": config.run.model_copy(update={"dir": Path(folder)})}))
    for batches in trainer.global_batches():
        if trainer.state.step == STEP - 1 and distributed.rank() == 1:
            image_CHW = network_input(batches[1], config.data)[0]
            spoil_one(trainer.engine.module, float(image_CHW.mean()), gradient)
            key = trainer.anomalies.samples(trainer.state.consumed_samples, 1)[2]["key"]
            (Path(folder) / "fault.json").write_text(json.dumps([float(image_CHW.mean()), key]))
        trainer.train_step(batches)


def stopped(shards: Path, folder: Path, gradient: bool, **trainer_settings: Any) -> tuple[Path, float, str]:
    """The failure dump, and the mean and key of the image at fault."""
    arguments = {
        "shards": str(shards),
        "folder": str(folder),
        "gradient": gradient,
        "trainer_settings": trainer_settings,
    }
    processes = ranks.start_ranks(2, [ranks.__file__, __file__, "_stop", json.dumps(arguments)])
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], "\n".join(outputs)
    assert "".join(outputs).count("error: ") == 1 and "Traceback" not in "".join(outputs)
    box = folder / "failure_dump" / f"step-{STEP:08d}"
    assert f"replay {box}" in "".join(outputs) and "trainer.max_nonfinite_steps=0" in "".join(outputs)
    mean, key = json.loads((folder / "fault.json").read_text())
    return box, mean, key


def spoiled_network(monkeypatch: pytest.MonkeyPatch, mean: float, gradient: bool) -> None:
    """The network that a failure dump is replayed with has the same fault."""

    def build(metadata: ModelMetadata) -> SegmentationNetwork:
        model = build_model(metadata.name, len(metadata.classes), **metadata.options)
        spoil_one(model, mean, gradient)
        return model

    monkeypatch.setattr(ModelMetadata, "build", build)


@pytest.mark.parametrize(("stage", "sync"), [(0, False), (3, True)])
def test_the_replay_names_module_and_sample(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: int,
    sync: bool,
) -> None:
    """Statistics of BatchNorm that are of all ranks carry the fault to all, and then all batches are kept and joined."""
    box, mean, key = stopped(shards, tmp_path, gradient=False, zero_stage=stage, sync_batchnorm=sync)
    assert list(read_failure_dump(box).records) == ([0, 1] if sync else [1])
    assert main(["replay", str(box)]) == 1, "a sound network"
    assert "not reproduced" in capsys.readouterr().out
    spoiled_network(monkeypatch, mean, gradient=False)
    assert main(["replay", str(box)]) == 0
    said = capsys.readouterr().out
    name, _ = stem(build_model("unet", 5, width=0.05))
    assert "\nreproduced: the loss is nan" in said and f"first output that is not finite: of {name} (Conv2d)" in said
    assert f": {key} (epoch 0)\n" in said and "not finite" in said and "0 with values that are not finite" in said
    assert main(["replay", str(box), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [sample[2] for sample in found["alone"]] == [key]
    assert found["rank"] == (0 if sync else 1)
    assert any("are joined" in remark for remark in found["remarks"]) is sync
    if sync:  # as where nothing is cropped
        whole = read_failure_dump(box)
        cut = tuple(
            replace(batch, images_NHWC=batch.images_NHWC[:, :-8], labels_NHW=batch.labels_NHW[:, :-8])
            for batch in whole.records[1].batches
        )
        mixed = replace(whole, records={**whole.records, 1: replace(whole.records[1], batches=cut)})
        again = replay(mixed, 1, torch.device("cpu"))
        assert math.isfinite(again.loss) and any("differ in size" in remark for remark in again.remarks)


def test_a_secret_does_not_spoil_the_settings(shards: Path, tmp_path: Path) -> None:
    config = small_config(str(shards)).model_copy(update={"deepspeed": {"comet": {"api_key": "hunter2"}}})
    about = DumpMetadata(step=3, losses=(None,), accumulation=1, counts=(1, 1), histogram=(1,), keys={}, versions={})
    saved = toy_checkpoint()
    box = write_failure_dump(tmp_path, FailureDump(about, config, saved.metadata, dict(saved.weights), {}))
    assert "hunter2" not in (box / "config.yaml").read_text()
    assert read_yaml(box / "config.yaml")["deepspeed"]["comet"]["api_key"] == "***"


def test_gradients_alone_are_found_on_the_rank_that_made_them(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    box, mean, _ = stopped(shards, tmp_path, gradient=True, zero_stage=1, precision="bf16")
    recorded = read_failure_dump(box)
    assert list(recorded.records) == [0, 1] and recorded.metadata.step == STEP - 1
    spoiled_network(monkeypatch, mean, gradient=True)
    assert main(["replay", str(box), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    name, _ = stem(build_model("unet", 5, width=0.05))
    assert found["rank"] == 1 and found["trace"]["gradient"].startswith(f"of {name}.")
    assert found["loss"] == recorded.about.losses[1] == found["recorded"], (
        "the same weights, batches, mode and precision"
    )
    assert main(["replay", str(box), "--rank", "0"]) == 1


def test_what_is_no_black_box_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "failure_dump.json").write_text("{}")
    for folder, sentence in ((tmp_path / "none", "holds no failure_dump.json"), (tmp_path, "is damaged")):
        with pytest.raises(SystemExit) as end:
            main(["replay", str(folder)])
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert sentence in said and said.startswith("error: ") and said.count("\n") == 1
