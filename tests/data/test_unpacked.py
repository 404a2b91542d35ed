"""Folders and datasets of the user's own give what their shards give, and name what is wrong with them."""

import pickle
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import REPOSITORY, write_camvid
from msanet.config import parse_config
from msanet.data import Loader, ShardDataset
from msanet.data.loader import evaluation_loader
from msanet.data.open_dataset import open_dataset
from msanet.data.samples import decode_sample
from msanet.plugins import trust
from sharding.__main__ import main
from support.errors import raises_user_error

AUGMENTATION: dict[str, Any] = {
    "crop": (30, 40),
    "random_scale": (0.6, 1.5),
    "brightness": 0.3,
    "seed": 2,
    "shuffle_block_bytes": 1,
}
MODULE = """
from pathlib import Path
import numpy as np, torch
from PIL import Image
from camvid_pairs import pairs

class Roads:
    classes = {classes}
    def __init__(self, split):
        self.files = pairs(split)
    def __len__(self):
        return len(self.files)
    def __getitem__(self, number):
        image, label = self.files[number]
        {body}
"""
PAIRS = "(lambda image, label: ({}))(np.array(Image.open(image)), np.array(Image.open(label)))"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("unpacked") / "source", train=10, val=4)


@pytest.fixture(scope="module")
def packed(source: Path) -> Path:
    out = source.parent / "shards"
    main(["camvid", "--source", str(source), "--out", str(out), "--shard-bytes", "20000", "--workers", "1"])
    return out


@pytest.fixture
def own(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Write a file with a dataset of the user's own, and name it."""
    helper = f"from pathlib import Path\nROOT = Path({str(source)!r})\n" + (
        "def pairs(split):\n    files = sorted((ROOT / split).iterdir())\n"
        "    return [(file, ROOT / (split + 'annot') / file.name) for file in files]\n"
    )
    (tmp_path / "camvid_pairs.py").write_text(helper)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(body: str, classes: str = "[f'c{n}' for n in range(12)]") -> str:
        (tmp_path / "own.py").write_text(MODULE.format(body=body, classes=classes))
        return f"{tmp_path / 'own.py'}:Roads"

    yield write
    for name in [name for name in sys.modules if name == "camvid_pairs" or name.startswith("msanet_user_own")]:
        del sys.modules[name]


def batches(dataset: ShardDataset, state: Any = None, **options: Any) -> Iterator[dict[str, torch.Tensor]]:
    loader = Loader(dataset, **{"batch_size": 4, "num_workers": 0, **options})
    if state:
        loader.load_state_dict(state)
    while loader.epoch < 2:
        yield from loader


def equal(left: Any, right: Any) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in a)


def test_a_folder_gives_the_batches_of_its_shards(source: Path, packed: Path) -> None:
    wanted = list(batches(ShardDataset(packed, **AUGMENTATION)))
    folder = ShardDataset(f"folder:{source}", **AUGMENTATION)
    assert folder.classes == ShardDataset(packed).classes
    assert equal(batches(folder, num_workers=1), wanted)
    assert equal(batches(pickle.loads(pickle.dumps(folder))), wanted)
    ranks = [Loader(folder, 2, rank=rank, world_size=2, num_workers=0) for rank in range(2)]
    for loader in ranks:
        list(islice(loader, 2))
    assert equal(batches(folder, ranks[0].state_dict()), wanted[2:])


def test_samples_do_not_depend_on_blocks(source: Path, packed: Path) -> None:
    """With larger blocks shards are read in another order: the same pixels by epoch and sample."""
    pixels = []
    for path in (packed, f"folder:{source}"):
        loaded = list(batches(ShardDataset(path, **{**AUGMENTATION, "shuffle_block_bytes": 10**6})))
        found = {}
        for batch in loaded:
            for place in range(len(batch["samples"])):
                key = int(batch["epochs"][place]), int(batch["samples"][place])
                found[key] = batch["images"][place].numpy().tobytes() + batch["labels"][place].numpy().tobytes()
        pixels.append(found)
    assert pixels[0] == pixels[1] and len(pixels[0]) == 20
    assert list(pixels[0]) != list(pixels[1]), "a folder is shuffled sample by sample"
    order = [int(number) for batch in batches(ShardDataset(packed, **AUGMENTATION)) for number in batch["samples"]]
    assert [number for _, number in pixels[1]] == order


def test_manifest_and_evaluation_are_those_of_the_shards(source: Path, packed: Path) -> None:
    found = []
    for path in (str(packed), f"folder:{source}"):
        config = parse_config({"data": {"path": path}}, "test")
        dataset = open_dataset(config.data, config.storage)
        manifest = dataset.read_manifest(count_labels=True)
        val = dataset.source("val", manifest)
        samples = [sample for rank in range(3) for sample in evaluation_loader(val, rank, 3, 0)]
        pixels = [(s.number, s.key, s.image_HWC.numpy().tobytes(), s.label_HW.numpy().tobytes()) for s in samples]
        found.append((manifest.classes, manifest.palette, manifest.ids, manifest.split("train").histogram, pixels))
        assert dataset.read_manifest().digest() == manifest.digest(), "counting is not part of the identity"
    assert found[0] == found[1]


def test_the_identity_is_names_classes_and_sizes(source: Path, tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        return ShardDataset(f"folder:{folder}").manifest.digest()

    copy = write_camvid(tmp_path / "copy", train=10, val=4)
    assert digest(copy) == digest(source)
    (copy / "train/train_000.png").rename(copy / "train/train_x.png")
    (copy / "trainannot/train_000.png").rename(copy / "trainannot/train_x.png")
    assert digest(copy) != digest(source)
    state = Loader(ShardDataset(f"folder:{source}"), num_workers=0).state_dict()
    with raises_user_error("MSA-DATA-736", setting="dataset"):
        Loader(ShardDataset(f"folder:{copy}"), num_workers=0).load_state_dict(state)


def test_ranks_with_other_files_are_named(source: Path, tmp_path: Path) -> None:
    config = parse_config({"data": {"path": f"folder:{write_camvid(tmp_path / 'copy', 9, 4)}"}}, "test")
    with raises_user_error("MSA-DATA-737", setting="data.path"):
        open_dataset(config.data, config.storage).source("train", ShardDataset(f"folder:{source}").manifest)


def test_folders_without_images_are_refused(tmp_path: Path, source: Path) -> None:
    with raises_user_error("MSA-PACK-730", setting="data.path", mentions=str(tmp_path)):
        ShardDataset(f"folder:{tmp_path}")
    with raises_user_error("MSA-PACK-001"):
        ShardDataset(f"folder:{tmp_path / 'absent'}")
    with raises_user_error("MSA-PACK-731", setting="data.classes"):
        ShardDataset(f"folder:{source}", classes=tmp_path / "classes.yaml")
    with raises_user_error("MSA-DATA-001", mentions="other"):
        ShardDataset(f"folder:{source}", "other")
    with raises_user_error("MSA-CONFIG-007", mentions="data.classes"):
        ShardDataset(source, classes=tmp_path)


def test_a_folder_of_ones_own_has_a_classes_file(tmp_path: Path) -> None:
    for folder, pixels in (("images", np.zeros((8, 9, 3), np.uint8)), ("labels", np.full((8, 9), 4, np.uint8))):
        (tmp_path / folder / "train").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "train" / "a.png"), pixels)
    classes = tmp_path / "classes.yaml"
    classes.write_text("classes: [{id: 3, name: field}, {id: 4, name: road}]")
    dataset = ShardDataset(f"folder:{tmp_path}", classes=classes)
    (batch,) = Loader(dataset, num_workers=0)
    assert dataset.classes == ("field", "road") and batch["labels"].unique().tolist() == [1]
    cv2.imwrite(str(tmp_path / "labels" / "train" / "a.png"), np.full((8, 9), 7, np.uint8))
    with raises_user_error("MSA-DATA-023", mentions="7"):
        list(Loader(ShardDataset(f"folder:{tmp_path}", classes=classes), num_workers=0))
    with raises_user_error("MSA-PACK-207"):
        ShardDataset(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    "pair",
    [
        "image, label",
        "Image.fromarray(image), Image.fromarray(label)",
        "torch.tensor(image).permute(2, 0, 1), torch.tensor(label).long()[None]",
    ],
)
def test_a_dataset_of_ones_own_gives_the_samples_of_the_folder(own: Any, source: Path, pair: str) -> None:
    dataset = ShardDataset(dataset=own("return " + PAIRS.format(pair)), **AUGMENTATION)
    folder = ShardDataset(f"folder:{source}", **AUGMENTATION)
    assert len(dataset) == 10 and dataset.classes[0] == "c0"
    for ours, theirs in zip(islice(batches(dataset), 4), islice(batches(folder), 4), strict=True):
        assert torch.equal(ours["images"], theirs["images"]) and torch.equal(ours["samples"], theirs["samples"])
    if pair == "image, label":
        (image, _), (same, _) = (decode_sample(one.source.read(3)) for one in (dataset, folder))
        assert np.array_equal(image, same)
        assert next(batches(dataset, num_workers=1))["images"].shape == (4, 3, 30, 40)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return 5", "MSA-DATA-731"),
        ("return np.zeros((4, 4, 3)), np.zeros((4, 4), int)", "MSA-DATA-731"),
        ("return np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4), int)", "MSA-DATA-731"),
        ("return Image.new('I;16', (4, 4)), np.zeros((4, 4), int)", "MSA-DATA-731"),
        ("return np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4))", "MSA-DATA-731"),
        ("return np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), int)", "MSA-DATA-731"),
        ("return np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 12)", "MSA-DATA-732"),
        ("return np.zeros((4, 4, 3), np.uint8), np.full((4, 4), -1)", "MSA-DATA-732"),
        ("raise KeyError('lost')", "MSA-DATA-735"),
    ],
)
def test_items_that_are_not_pairs_are_refused(own: Any, body: str, code: str) -> None:
    with raises_user_error(code, setting="data.dataset", mentions="[9]"):
        ShardDataset(dataset=own(body), **AUGMENTATION).source.read(9)


@pytest.mark.parametrize(
    ("classes", "extra", "code"),
    [
        ("'road'", "", "MSA-DATA-733"),
        ("[]", "", "MSA-DATA-733"),
        ("[1]", "", "MSA-DATA-733"),
        ("['a', 'a']", "", "MSA-DATA-733"),
        ("['a']", "\nRoads.__len__ = lambda self: 0", "MSA-DATA-734"),
        ("['a']", "\ndel Roads.__getitem__", "MSA-DATA-733"),
        ("['a']", "\ndel Roads.__init__", "MSA-DATA-735"),
        ("['a']", "\nRoads = 3", "MSA-CONFIG-651"),
    ],
)
def test_what_is_not_a_dataset_is_refused(own: Any, classes: str, extra: str, code: str) -> None:
    with raises_user_error(code):
        ShardDataset(dataset=own("pass" + extra, classes))


def test_settings_that_exclude_each_other_are_refused(own: Any, source: Path) -> None:
    with raises_user_error("MSA-CONFIG-007", mentions="data.dataset"):
        ShardDataset(source, dataset=own("pass"))
    with raises_user_error("MSA-CONFIG-007", mentions="decoded_cache_limit_bytes"):
        ShardDataset(dataset=own("pass"), storage={"decoded_cache_limit_bytes": 1})


def test_code_is_imported_only_if_the_user_names_it(own: Any) -> None:
    name = own("return " + PAIRS.format("image, label"))
    config = parse_config({"data": {"dataset": name}}, "test")
    with raises_user_error("MSA-DATA-739", setting="--plugin", mentions=name):
        open_dataset(config.data, config.storage).read_manifest()
    assert not [module for module in sys.modules if module.startswith("msanet_user_own")]
    trust(name)
    assert open_dataset(config.data, config.storage).read_manifest().split("val").samples == 4


def test_decoded_images_of_a_folder_are_kept(source: Path, tmp_path: Path) -> None:
    storage = {"decoded_cache_limit_bytes": 10**8, "cache_dir": str(tmp_path)}
    kept = ShardDataset(f"folder:{source}", **AUGMENTATION, storage=storage)
    wanted = list(batches(ShardDataset(f"folder:{source}", **AUGMENTATION)))
    assert equal(batches(kept), wanted) and len(list(tmp_path.rglob("*.rgbl"))) == 10


def test_the_dataset_of_the_docs_is_one(tmp_path: Path) -> None:
    section = (REPOSITORY / "docs/data.md").read_text().partition("## Without packing")[2]
    (tmp_path / "my_data.py").write_text(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0])
    dataset = ShardDataset(dataset=f"{tmp_path / 'my_data.py'}:Roads", crop=(16, 16))
    assert sum(len(batch["samples"]) for batch in Loader(dataset, 4, num_workers=0)) == 12
    assert Image.fromarray(decode_sample(dataset.source.read(1))[0]).size == (48, 40)
