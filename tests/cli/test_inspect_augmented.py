"""`msanet inspect --augmented N` draws the samples that a training with these settings gets first."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msanet.cli import augmented_sheet, inspect
from msanet.cli.main import main
from msanet.config import parse_config
from msanet.data.image.color import color_jitter
from msanet.data.loader import plan_batches, shuffle_config, shuffle_order, train_loader, train_source
from msanet.data.manifest import load_manifest
from sharding.inspection import LabeledSample, cell
from support.band_images import pack_bands, write_band_folder
from support.errors import raises_user_error

SETTINGS = ["data.augment=strong", "data.crop=[30,40]", "data.cutmix=1.0", "trainer.global_batch_size=4"]


def test_the_first_samples_of_a_training(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: dict[str, Any] = {}

    def keep(path: Path, title: str, cells: Any, captions: Any, legend: Any) -> None:
        drawn.update(cells=cells, captions=captions)

    monkeypatch.setattr(augmented_sheet, "write_sheet", keep)
    words = ["inspect", str(shards), "--augmented", "4", "--sheet", str(tmp_path / "a.png"), *SETTINGS]
    assert main(words) == 0 and "the first 4 samples" in capsys.readouterr().out
    data = {"path": str(shards), "augment": "strong", "crop": [30, 40], "cutmix": 1.0, "num_workers": 0}
    config = parse_config({"data": data, "trainer": {"global_batch_size": 4}}, "test")
    manifest = load_manifest(shards)
    order, source = shuffle_order(manifest, "train", shuffle_config(config)), train_source(config, manifest)
    (((batch,),)) = list(islice(train_loader(config, order, source, plan_batches(4, 4, 1), 0, 0), 1))
    jittered = color_jitter(batch.images_NHWC, batch.jitter_N3).round().numpy().astype(np.uint8)
    for i, (shown, caption) in enumerate(zip(drawn["cells"], drawn["captions"], strict=True)):
        label = batch.labels_NHW[i].numpy()
        parts = [LabeledSample("train", "", jittered[i], mask) for mask in (np.full_like(label, 255), label)]
        whole = np.concatenate([cell(part, manifest.palette) for part in parts])
        assert shown.shape[0] == 480 and shown.shape[1] == round(480 * whole.shape[1] / whole.shape[0])
        assert abs(shown.mean() - whole.mean()) < 0.5 and abs(shown.std() - whole.std()) < 3
        assert caption.startswith(source.key(int(batch.samples_N[i]))) and caption.endswith("(cutmix)")


def test_the_sheet_is_written(shards: Path, tmp_path: Path) -> None:
    assert main(["inspect", str(shards), "--augmented", "2", "--sheet", str(tmp_path / "a.png"), "--split", "val"]) == 0
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "code", "setting"),
    [
        (["data.augment=strong"], "MSA-CLI-006", "--augmented"),
        (["--config", "camvid"], "MSA-CLI-006", "--augmented"),
        (["--augmented", "3"], "MSA-CLI-006", "--sheet"),
        (["--augmented", "401", "--sheet", "a.png"], "MSA-CLI-003", "--augmented"),
        (["--augmented", "3", "--sheet", "a.jpg"], "MSA-PACK-046", "--sheet"),
        (["--augmented", "3", "--sheet", "a.png", "data.augment=strng"], "MSA-CONFIG-005", "data.augment"),
    ],
)
def test_words_that_cannot_be(shards: Path, words: list[str], code: str, setting: str) -> None:
    with raises_user_error(code, setting=setting):
        inspect.main([str(shards), *words])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_bands_are_drawn_as_the_report_shows_them(tmp_path: Path, dtype: str) -> None:
    write_band_folder(tmp_path / "source", dtype=dtype)
    shards = pack_bands(tmp_path / "source", tmp_path / "shards")
    words = [
        str(shards),
        "--augmented",
        "2",
        "--sheet",
        str(tmp_path / "a.png"),
        "data.crop=[48,48]",
        "data.rotation=20",
    ]
    assert inspect.main([*words, "data.contrast=0.2", "report.bands=[12,7,1]"]) == 0
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    assert drawn.ndim == 3 and drawn.std() > 10
    for wrong, code in (("data.augment=strong", "MSA-DATA-795"), ("report.bands=[13]", "MSA-DATA-796")):
        with raises_user_error(code):
            inspect.main([*words, wrong])


def test_an_address_stays_as_it_is(tmp_path: Path) -> None:
    words = ["--augmented", "1", "--sheet", str(tmp_path / "a.png"), "storage.download_timeout_seconds=0.1"]
    with raises_user_error("MSA-DATA-028", mentions="http://127.0.0.1:1/x"):
        inspect.main(["http://127.0.0.1:1/x", *words])
    assert not list(tmp_path.iterdir())
