"""Several datasets in one training: pixels, classes by name, resume on other ranks, and what does not fit."""

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import write_camvid
from msanet.api.settings import data_settings, training_config
from msanet.config import Config, load_config, parse_config
from msanet.data import Loader, ShardDataset
from msanet.data.band_settings import with_band_settings
from msanet.data.loader import batch_plan, shuffle_config, shuffle_order, train_loader, train_source
from msanet.data.mixture import MixedManifest, mixed_manifest, shares_of
from msanet.data.open_dataset import open_dataset
from msanet.data.samples import decode_sample
from msanet.datasets import CAMVID
from msanet.datasets.image_format import ImageFormat
from sharding.__main__ import main
from support.band_images import pack_bands, write_band_folder
from support.errors import raises_user_error
from support.servers import nginx

STREET: dict[str, Any] = {
    "name": "street",
    "classes": [
        {"name": "flat", "from": ["pavement", "road", "way"]},
        {"name": "house", "color": [1, 2, 3]},
        {"name": "car"},
    ],
    "others": "ignore",
}
CLASSES = {
    "name": "own",
    "classes": [{"id": 3, "name": "house", "color": [9, 9, 9]}, {"id": 7, "name": "way", "color": [8, 8, 8]}],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """camvid, shards of 10 images; own, a folder of 4 with classes of its own; swapped, shards of 6 with CamVid's in reverse."""
    root = tmp_path_factory.mktemp("mixture")
    source = write_camvid(root / "source", train=10, val=4)
    main(["camvid", "--source", str(source), "--out", str(root / "camvid"), "--shard-bytes", "20000", "--workers", "1"])
    for split, count in (("train", 4), ("val", 2)):
        write_folder(root / "own", split, count, [3, 7])
        write_folder(root / "reversed", split, count + 2, list(range(11)))
    (root / "classes.json").write_text(json.dumps(CLASSES))
    (root / "street.json").write_text(json.dumps(STREET))
    back = [{"id": k, "name": name, "color": [k, 2 * k, 3]} for k, name in enumerate(reversed(CAMVID.classes))]
    (root / "reversed.json").write_text(json.dumps({"name": "swapped", "classes": back}))
    words = ["--source", root / "reversed", "--classes", root / "reversed.json", "--out", root / "swapped"]
    main(["folder", *map(str, words), "--workers", "1"])
    return root


def write_folder(folder: Path, split: str, count: int, values: list[int]) -> None:
    from PIL import Image

    rng = np.random.default_rng(len(values) + count)
    for number in range(count):
        for kind, size in (("images", (36, 44, 3)), ("labels", (36, 44))):
            pixels = rng.integers(0, 256, size) if kind == "images" else rng.choice([*values, 255], size)
            path = folder / kind / split / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def settings(root: Path, *names: str, **data: Any) -> dict[str, Any]:
    paths = [f"folder:{root / name}" if name in ("own", "source") else str(root / name) for name in names]
    classes = {"classes": root / "classes.json"} if "own" in names else {}
    scheme = {"label_scheme": root / "street.json"} if "own" in names else {}
    return {"path": paths, **{k: str(v) for k, v in (classes | scheme).items()}, **data}


def opened(root: Path, *names: str, **data: Any) -> tuple[Any, Any, Config]:
    config = parse_config({"data": settings(root, *names, **data)}, "test")
    dataset = open_dataset(config.data, config.storage)
    return dataset, dataset.read_manifest(count_labels=True), config


def labels(source: Any) -> list[np.ndarray]:
    return [decode_sample(source.read(number))[1] for number in range(len(source))]


def single(path: Any, split: str = "train", **data: Any) -> Any:
    config = parse_config({"data": {"path": str(path), **data}}, "test")
    dataset = open_dataset(config.data, config.storage)
    return dataset.source(split, dataset.read_manifest())


def test_classes_are_mapped_by_name_to_the_pixel(root: Path) -> None:
    dataset, manifest, _ = opened(root, "camvid", "own")
    assert (manifest.name, manifest.classes) == ("street", ("flat", "house", "car"))
    assert manifest.palette == (CAMVID.palette[4], (1, 2, 3), CAMVID.palette[8])
    source = pickle.loads(pickle.dumps(dataset.source("train", manifest)))
    camvid = single(root / "camvid")
    own = single(f"folder:{root / 'own'}", classes=str(root / "classes.json"))
    table = np.full(256, 255, np.uint8)
    table[[3, 4, 8]] = 0, 0, 2  # road, pavement, car
    expected = [table[label] for label in labels(camvid)]
    table = np.full(256, 255, np.uint8)
    table[[0, 1]] = 1, 0  # house, way
    expected += [table[label] for label in labels(own)]
    assert all(np.array_equal(a, b) for a, b in zip(labels(source), expected, strict=True)) and len(expected) == 14
    counts = np.bincount(np.concatenate([label.ravel() for label in expected]), minlength=256)
    info = manifest.split("train")
    assert info.histogram == tuple(counts[:3]) and info.ignored == counts[255]
    assert source.key(0) == f"camvid.{camvid.key(0)}" and source.key(10) == "own.0"
    images = [decode_sample(one.read(number))[0] for one, number in ((source, 12), (own, 2))]
    assert np.array_equal(images[0], images[1])


def test_the_same_names_in_another_order_need_no_scheme(root: Path) -> None:
    dataset, manifest, _ = opened(root, "camvid", "swapped")
    assert manifest.classes == CAMVID.classes
    source, swapped = dataset.source("train", manifest), single(root / "swapped")
    table = np.concatenate([np.arange(11)[::-1], np.full(245, 255)]).astype(np.uint8)
    for number, label in enumerate(labels(swapped)):
        assert np.array_equal(decode_sample(source.read(10 + number))[1], table[label])


def test_a_folder_under_a_scheme_is_its_shards_packed_with_it(root: Path, tmp_path: Path) -> None:
    scheme = tmp_path / "scheme.json"
    scheme.write_text(
        json.dumps({**STREET, "classes": [STREET["classes"][2], {"name": "flat", "from": ["road", "tree"]}]})
    )
    words = ["--source", root / "source", "--out", tmp_path / "packed", "--label-scheme", scheme]
    main(["camvid", *map(str, words), "--workers", "1"])
    options: dict[str, Any] = {"crop": (30, 40), "seed": 2, "shuffle_block_bytes": 1}
    packed = ShardDataset(tmp_path / "packed", **options)
    folder = ShardDataset(f"folder:{root / 'source'}", **options, label_scheme=str(scheme))
    mapped = ShardDataset(root / "camvid", **options, label_scheme=str(scheme))
    assert packed.manifest.classes == folder.manifest.classes == ("car", "flat")
    assert packed.manifest.ids == folder.manifest.ids and packed.palette == folder.palette
    wanted = list(batches(packed))
    assert equal(batches(folder), wanted) and equal(batches(mapped), wanted)
    again = ShardDataset(tmp_path / "packed", **options, label_scheme=str(scheme))
    assert equal(batches(again), wanted), "a dataset that has the scheme's classes stays as it is"


def batches(dataset: ShardDataset, state: Any = None, **options: Any) -> Iterator[dict[str, torch.Tensor]]:
    loader = Loader(dataset, **{"batch_size": 4, "num_workers": 0, **options})
    if state:
        loader.load_state_dict(state)
    while loader.epoch < 3:
        yield from loader


def equal(left: Any, right: Any) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in a)


def mixed(root: Path, **more: Any) -> ShardDataset:
    data = settings(root, "camvid", "own", sampling_weights=[1, 1])
    return ShardDataset(**{"crop": (30, 40), "random_scale": (0.6, 1.5), "brightness": 0.3, "seed": 2, **data, **more})


def test_a_loader_resumes_in_the_middle_on_other_ranks(root: Path) -> None:
    wanted = list(batches(mixed(root)))
    pairs = Counter(
        (int(e), int(s)) for batch in wanted for e, s in zip(batch["epochs"], batch["samples"], strict=True)
    )
    assert set(pairs.values()) == {1} and sum(pairs.values()) == 3 * 14
    assert [len({s for e, s in pairs if s >= 10 and e == epoch}) for epoch in range(6)] == [4, 4, 4, 4, 4, 1]
    ranks = [Loader(mixed(root), 2, rank=rank, world_size=2, num_workers=0) for rank in range(2)]
    own = [list(islice(loader, 2)) for loader in ranks]
    for batch, parts in zip(wanted, zip(*own, strict=True), strict=False):
        assert all(torch.equal(torch.cat([part[name] for part in parts]), batch[name]) for name in batch)
    assert equal(batches(mixed(root), ranks[0].state_dict()), wanted[2:])
    with raises_user_error("MSA-DATA-736", setting="order"):
        Loader(mixed(root, sampling_weights=[2, 1])).load_state_dict(ranks[0].state_dict())
    with raises_user_error("MSA-DATA-736", setting="dataset"):
        Loader(mixed(root, path=[*reversed(settings(root, "camvid", "own")["path"])])).load_state_dict(
            ranks[0].state_dict()
        )


def steps(config: Config, manifest: Any, ranks: int, consumed: int, count: int) -> list[Any]:
    """(epochs, samples, pixels) of global batches, over all ranks."""
    order = shuffle_order(manifest, "train", shuffle_config(config))
    plan, source = batch_plan(config, ranks), train_source(config, manifest)
    loaders = [train_loader(config, order, source, plan, rank, consumed) for rank in range(ranks)]
    found = []
    for _ in range(count):
        parts = [batch for loader in loaders for batch in next(loader)]
        fields = ("epochs_N", "samples_N", "images_NHWC", "labels_NHW")
        found.append([torch.cat([getattr(part, name) for part in parts]) for name in fields])
    return found


MIXED_IMAGES = {"augment": "strong", "rare_class_crops": 0.5, "cutmix": 0.3, "classmix": 0.3, "copy_paste": 0.4}


@pytest.mark.parametrize("augmentation", [{}, MIXED_IMAGES])
def test_a_training_is_the_same_on_any_ranks_from_any_step(root: Path, augmentation: dict[str, Any]) -> None:
    """Also where images of one dataset are pasted into another's; labels are train ids of the mix."""
    data = settings(root, "camvid", "own", "swapped", crop=[24, 24], num_workers=0, sampling_weights=[1, 2, 1])
    data |= augmentation
    config = parse_config({"data": data, "trainer": {"global_batch_size": 6}}, "test")
    manifest = open_dataset(config.data, config.storage).read_manifest()
    wanted = steps(config, manifest, 1, 0, 9)
    assert {*np.unique(torch.cat([labels_NHW for *_, labels_NHW in wanted])).tolist()} == {0, 1, 2, 255}
    for ranks, start in ((2, 0), (3, 4), (6, 7)):
        got = steps(config, manifest, ranks, start * 6, 9 - start)
        assert all(
            torch.equal(a, b)
            for left, right in zip(got, wanted[start:], strict=True)
            for a, b in zip(left, right, strict=True)
        )


def test_images_of_many_bands_are_mixed_and_augmented(tmp_path: Path) -> None:
    """Two sets of 12 bands of uint16, normalized by the statistics of both; all but colors can be augmented."""
    folders = [tmp_path / name / "source" for name in ("a", "b")]
    images = [pixels for folder in folders for pixels in write_band_folder(folder).values()]
    paths = [str(pack_bands(folder, folder.with_name("shards"))) for folder in folders]
    more = {"rotation": 20, "brightness": 0.3, "rare_class_crops": 0.5, "cutmix": 0.4, "copy_paste": 0.4}
    common = {"path": paths, "crop": [24, 24], "num_workers": 0, **more}
    config = parse_config({"data": common, "trainer": {"global_batch_size": 4}}, "test")
    manifest = open_dataset(config.data, config.storage).read_manifest(count_labels=True)
    bands = manifest.split("train").bands
    trained = np.stack([pixels for number, pixels in enumerate(images) if number % 3 < 2]).astype(np.float64)
    assert bands is not None
    np.testing.assert_allclose(bands.mean, trained.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(bands.std, trained.std(axis=(0, 1, 2)), rtol=1e-9)
    data = with_band_settings(config.data, manifest)
    config = config.model_copy(update={"data": data})
    wanted = steps(config, manifest, 1, 0, 4)
    assert wanted[0][2].shape == (4, 24, 24, 12) and wanted[0][2].dtype == torch.uint16
    for left, right in zip(steps(config, manifest, 2, 4, 3), wanted[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    for name in ("saturation", "hue", "cutout"):
        with raises_user_error("MSA-DATA-795", setting=f"data.{name}"):
            with_band_settings(data.model_copy(update={name: 0.1}), manifest)


def test_shards_elsewhere_and_a_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    wanted = list(batches(mixed(root)))
    with nginx(root / "camvid", tmp_path / "nginx") as (address, _):
        paths = [address, f"folder:{root / 'own'}"]
        remote = mixed(root, path=paths, storage={"cache_dir": str(tmp_path / "cache")})
        assert equal(batches(remote), wanted)
    assert "http" in remote.source.names(0)["__url__"]


def test_a_bad_sample_is_named_with_its_dataset(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "own", tmp_path / "own")
    (tmp_path / "own/labels/train/2.png").write_bytes(b"damaged")
    paths = [str(root / "camvid"), f"folder:{tmp_path / 'own'}"]
    dataset = mixed(root, path=paths, on_bad_sample="skip", max_bad_fraction=1.0)
    found = [
        sentence
        for batch in islice(Loader(dataset, 4, num_workers=0, output="batch"), 4)
        for sentence in batch.bad_samples
    ]
    assert found and all("labels/train/2.png" in sentence for sentence in found)
    with raises_user_error("MSA-DATA-730"):
        list(batches(mixed(root, path=paths, on_bad_sample="skip", max_bad_fraction=0.0)))


def test_an_evaluation_has_each_image_of_each_dataset_once(root: Path) -> None:
    dataset, manifest, _ = opened(root, "camvid", "own")
    source = dataset.source("val", manifest)
    keys = [source.key(number) for number in range(len(source))]
    assert len(set(keys)) == 6
    shares = {share.name: (list(share.samples), share.classes) for share in shares_of(manifest, "val")}
    assert shares == {"camvid": ([0, 1, 2, 3], (0, 2)), "own": ([4, 5], (0, 1))}
    chosen = f"folder:{root / 'own'}"
    dataset, manifest, _ = opened(root, "camvid", "own", val_path=chosen)
    assert len(dataset.source("val", manifest)) == 2 and len(dataset.source("train", manifest)) == 14
    assert shares_of(manifest, "val") == [] and manifest.split("val").samples == 2


def test_class_frequencies_are_those_of_the_mix(root: Path) -> None:
    plain, weighted = (opened(root, "camvid", "own", sampling_weights=w)[1] for w in (None, [1, 6]))
    house, flat = 1, 0  # own has 4 of 14 samples, and gives 4 or 12
    assert weighted.split("train").histogram[house] == 3 * plain.split("train").histogram[house]
    assert weighted.split("train").histogram[flat] != plain.split("train").histogram[flat]
    assert weighted.digest() == plain.digest() and isinstance(plain, MixedManifest)


def test_each_folder_has_a_classes_file_of_its_own(root: Path) -> None:
    files = [str(root / "classes.json"), str(root / "reversed.json")]
    paths = [f"folder:{root / 'own'}", f"folder:{root / 'reversed'}", str(root / "camvid")]
    _, manifest, config = opened(root, "own", path=paths, classes=[*files, None])
    assert [part.manifest.num_classes for part in manifest.parts] == [2, 11, 11]
    assert config.data.with_absolute_paths() == config.data
    words = [f"data.path=[{','.join(paths)}]", f"data.classes=[{','.join(files)},null]"]
    assert [part.classes for part in load_config(None, words).data.parts] == [*map(Path, files), None]


def test_python_programs_give_lists_too(tmp_path: Path) -> None:
    config = training_config("camvid", [tmp_path / "a", "folder:b"], tmp_path / "run", {})
    assert config.data.paths == (str(tmp_path / "a"), f"folder:{Path('b').resolve()}")
    other = load_config("camvid", [f"{name}={json.dumps(value)}" for name, value in data_settings("c").items()])
    assert other.data.source == "c"


def test_passwords_stay_out_of_sentences() -> None:
    for data in ({"path": ["http://me:s3cr@h/a"] * 2}, {"path": ["a", "b"], "val_path": "http://me:s3cr@h/a"}):
        with raises_user_error("MSA-CONFIG-007") as error:
            parse_config({"data": data}, "test")
        assert "s3cr" not in str(error.value)


def test_decoded_samples_are_cached_by_what_their_labels_mean(root: Path) -> None:
    dataset, manifest, _ = opened(root, "camvid", "own")
    source, camvid = dataset.source("train", manifest), single(root / "camvid")
    assert source.content_name(3) != camvid.content_name(3)
    assert source.content_name(3).startswith(camvid.content_name(3))


def test_images_that_differ_in_more_than_classes(root: Path) -> None:
    manifest = single(root / "camvid").manifest
    bands = ImageFormat(dtype="uint16", bands=(4, 3), source_bands=4)
    with raises_user_error("MSA-DATA-763", mentions="2 bands of uint16 (4,3 of the 4 in its source)"):
        mixed_manifest([manifest, manifest.model_copy(update={"image": bands})], None, {"train": (0, 1)}, "train")


@pytest.mark.parametrize(
    ("names", "data", "code", "setting", "mentions"),
    [
        (["camvid", "own"], {"label_scheme": None}, "MSA-DATA-760", "data.label_scheme", ["sky", "house", "way"]),
        (["camvid", "camvid"], {}, "MSA-CONFIG-007", "data.path", ["2 times"]),
        (
            ["camvid", "own"],
            {"sampling_weights": [1]},
            "MSA-CONFIG-007",
            "data.sampling_weights",
            ["1 value", "2 data"],
        ),
        (["camvid"], {"sampling_weights": [1]}, "MSA-CONFIG-007", "data.sampling_weights", []),
        (["camvid"], {"sampling_weights": [1, 2]}, "MSA-CONFIG-007", "data.sampling_weights", ["2 value", "1 data"]),
        (["camvid", "own"], {"sampling_weights": [1, 0]}, "MSA-CONFIG-005", "data.sampling_weights.1", []),
        (["camvid", "own"], {"sampling_weights": [1, 1e-9]}, "MSA-DATA-762", "data.sampling_weights", []),
        (["camvid", "own"], {"val_path": "elsewhere"}, "MSA-CONFIG-007", "data.val_path", ["elsewhere"]),
        (["camvid", "own"], {"train_split": "test"}, "MSA-DATA-001", None, ["test"]),
        (["camvid", "own"], {"classes": ["a", "b", "c"]}, "MSA-CONFIG-007", "data.classes", ["3 values for 2"]),
        (["camvid", "own"], {"path": []}, "MSA-CONFIG-007", "data.path", []),
        (["camvid", "own"], {"path": ["a", 3]}, "MSA-CONFIG-007", "data.path", ["3"]),
    ],
)
def test_what_does_not_fit(
    names: list[str], data: Any, code: str, setting: str | None, mentions: list[str], root: Path
) -> None:
    with raises_user_error(code, setting=setting) as error:
        opened(root, *names, **data)
    assert all(word in str(error.value) for word in mentions), str(error.value)


@pytest.mark.parametrize(
    ("change", "code", "mentions"),
    [
        ({"others": "refuse"}, "MSA-PACK-785", "of the 11 classes of camvid (sky, building"),
        ({"ignore": ["skyy"]}, "MSA-PACK-785", "did you mean 'sky'?"),
        ({"classes": [{"name": "house"}]}, "MSA-DATA-761", "camvid"),
        ({"classes": []}, "MSA-PACK-784", "classes"),
    ],
)
def test_a_scheme_that_does_not_fit(change: Any, code: str, mentions: str, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "scheme.json"
    path.write_text(json.dumps({**STREET, **change}))
    setting = "data.path" if code == "MSA-DATA-761" else "data.label_scheme"
    with raises_user_error(code, setting=setting) as error:
        opened(root, "camvid", "own", label_scheme=str(path))
    assert mentions in str(error.value)
