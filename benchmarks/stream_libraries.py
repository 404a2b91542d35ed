"""The loaders that benchmarks/stream_peers.py compares: how each writes images, reads them, and resumes.

    python benchmarks/stream_libraries.py LIBRARY FOLDER --workers N [--state FILE] [--batches N] [--save FILE]
    python benchmarks/stream_libraries.py LIBRARY FOLDER --workers N --turns
    python benchmarks/stream_libraries.py LIBRARY FOLDER --write PNG_FILES

This is also the program that reads: one process for each loader, which imports nothing but its library. It prints when it had
the first batch, and the numbers of all samples it was given; with --turns it prints a rate for each line of its input.
"""

import argparse
import importlib
import json
import os
import pickle
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

# Last: `streaming` is the package of mosaicml-streaming, and not benchmarks/streaming.py.
sys.path[:] = [*(path for path in sys.path if path != str(Path(__file__).resolve().parent)), os.path.dirname(__file__)]

from harness import batches_in, forever  # noqa: E402

BATCH, CROP, SCALE = 4, (512, 1024), (0.5, 2.0)
CHUNK_BYTES = 64_000_000
Files = Sequence[tuple[Path, Path]]
"""PNG files of images and of labels."""
Sample = dict[str, Any]
"""number: of the sample; image, label: PNG as bytes, or pixels as uint8 arrays (H, W, 3) and (H, W)."""


def random_crop(sample: Sample) -> tuple[torch.Tensor, torch.Tensor, int]:
    """What all peers do: decode by OpenCV, faster than Pillow; random scale, crop and flip, cut before it is resized."""
    cv2.setNumThreads(0)
    image, label = _pixels(sample["image"], cv2.IMREAD_COLOR_RGB), _pixels(sample["label"], cv2.IMREAD_UNCHANGED)
    rng = np.random.default_rng()
    scale = rng.uniform(*SCALE)
    size = [min(round(crop / scale), side) for crop, side in zip(CROP, label.shape, strict=True)]
    top, left = (rng.integers(side - length + 1) for side, length in zip(label.shape, size, strict=True))
    place = slice(top, top + size[0]), slice(left, left + size[1])
    image = cv2.resize(image[place], CROP[::-1], interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label[place], CROP[::-1], interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    return torch.from_numpy(image), torch.from_numpy(label), int(sample["number"])


def _pixels(stored: Any, flags: int) -> np.ndarray:
    if isinstance(stored, np.ndarray):
        return stored
    pixels = cv2.imdecode(np.frombuffer(stored, np.uint8), flags)
    assert pixels is not None
    return pixels


def read_sample(number: int, files: Files, raw: bool) -> Sample:
    """What the peers store: the PNG files as they are, or their pixels."""
    image, label = files[number]
    if not raw:
        return {"number": number, "image": image.read_bytes(), "label": label.read_bytes()}
    rgb, ids = cv2.imread(str(image), cv2.IMREAD_COLOR_RGB), cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
    return {"number": number, "image": rgb, "label": ids}


class Ours:
    """Shards by `msanet pack` and the loader of our trainer, endless; its state is how many samples were consumed."""

    package = "msanet"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def loader(self, workers: int, state: Any = None) -> Iterable[Any]:
        from msanet.config import parse_config
        from msanet.data.loader import plan_batches, shuffle_config, shuffle_order, train_loader, train_source
        from msanet.data.shard_source import read_manifest
        from msanet.data.storage import LocalStorage

        data = {"path": str(self.folder), "crop": list(CROP), "random_scale": list(SCALE), "num_workers": workers}
        config = parse_config({"data": data, "trainer": {"global_batch_size": BATCH}}, "the benchmark")
        manifest = read_manifest(LocalStorage(self.folder))
        order, source = shuffle_order(manifest, "train", shuffle_config(config)), train_source(config, manifest)
        batches = train_loader(config, order, source, plan_batches(BATCH, None, 1), 0, state or 0)
        return ((batch.images_NHWC, batch.labels_NHW, batch.samples_N) for (batch,) in batches)

    def state(self, loader: Any, batches: int) -> Any:
        return batches * BATCH


class Mosaic:
    """mosaicml-streaming: MDSWriter with its default size of shards, StreamingDataset(shuffle=True, batch_size), and the
    state_dict of StreamingDataLoader. raw: pixels by the encoding ndarray, instead of the PNG files as bytes."""

    package = "mosaicml-streaming"

    def __init__(self, folder: Path, raw: bool = False) -> None:
        self.folder, self.raw = folder, raw

    def write(self, files: Files) -> None:
        kind = "ndarray:uint8" if self.raw else "bytes"
        columns = {"number": "int", "image": kind, "label": kind}
        with importlib.import_module("streaming").MDSWriter(out=str(self.folder), columns=columns) as out:
            for number in range(len(files)):
                out.write(read_sample(number, files, self.raw))

    def loader(self, workers: int, state: Any = None) -> Iterable[Any]:
        streaming = importlib.import_module("streaming")

        class Crops(streaming.StreamingDataset):  # type: ignore[name-defined]
            def __getitem__(self, place: Any) -> Any:
                return random_crop(super().__getitem__(place))

        dataset = Crops(local=str(self.folder), shuffle=True, batch_size=BATCH)
        return _streaming_loader(streaming, dataset, workers, state)

    def state(self, loader: Any, batches: int) -> Any:
        return loader.state_dict()


def _streaming_loader(library: Any, dataset: Any, workers: int, state: Any) -> Any:
    """The StreamingDataLoader of either library, from its state on if there is one."""
    loader = library.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)
    if state is not None:
        loader.load_state_dict(state)
    return loader


class LitData:
    """litData: optimize with its usual chunks of 64 MB, StreamingDataset(shuffle=True) and the state_dict of
    StreamingDataLoader. raw: pixels as NumPy arrays, instead of the PNG files as bytes."""

    package = "litdata"

    def __init__(self, folder: Path, raw: bool = False) -> None:
        self.folder, self.raw = folder, raw

    def write(self, files: Files) -> None:
        importlib.import_module("litdata").optimize(
            fn=partial(read_sample, files=files, raw=self.raw),
            inputs=list(range(len(files))),
            output_dir=str(self.folder),
            chunk_bytes=CHUNK_BYTES,
            num_workers=1,
            verbose=False,
        )

    def loader(self, workers: int, state: Any = None) -> Iterable[Any]:
        litdata = importlib.import_module("litdata")
        dataset = litdata.StreamingDataset(str(self.folder), shuffle=True, transform=random_crop)
        return _streaming_loader(litdata, dataset, workers, state)

    def state(self, loader: Any, batches: int) -> Any:
        return loader.state_dict()


class WebDataset:
    """WebDataset on the PNG files in tar files, which `msanet pack --codec original` writes.

    It has no state: a resume passes over what was consumed, undecoded, in the same order (detshuffle). resampled: shards drawn
    with replacement, as it offers for training on many nodes, endless; that order cannot be repeated.
    """

    package = "webdataset"

    def __init__(self, folder: Path, resampled: bool = False) -> None:
        self.folder, self.resampled = folder, resampled

    def loader(self, workers: int, state: Any = None) -> Iterable[Any]:
        wds = importlib.import_module("webdataset")
        shards = sorted(map(str, self.folder.glob("train-*.tar")))
        in_order = {"shardshuffle": 100, "detshuffle": True, "seed": 0}
        shuffled = {"shardshuffle": False, "resampled": True} if self.resampled else in_order
        dataset = wds.WebDataset(shards, **shuffled).compose(wds.filters.detshuffle(16, 16))
        if state is not None and not self.resampled:
            dataset = dataset.slice(state // max(workers, 1), None)  # in each loader process
        return wds.WebLoader(
            dataset.map(_from_tar), batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0
        )

    def state(self, loader: Any, batches: int) -> Any:
        return batches * BATCH


def _from_tar(sample: Sample) -> Any:
    number = int(sample["__key__"].rpartition("/")[2].split("_")[1])
    return random_crop({"number": number, "image": sample["image.png"], "label": sample["label.png"]})


LIBRARIES: dict[str, Any] = {
    "ours": Ours,
    "mosaicml-streaming": Mosaic,
    "litData": LitData,
    "WebDataset": WebDataset,
    "WebDataset, resampled": partial(WebDataset, resampled=True),
    "mosaicml-streaming, raw": partial(Mosaic, raw=True),
    "litData, raw": partial(LitData, raw=True),
}


def installed(name: str) -> str | None:
    """The version of a library's package; None where it is not installed."""
    try:
        return version(getattr(LIBRARIES[name], "func", LIBRARIES[name]).package)
    except PackageNotFoundError:
        return None


def main() -> int:
    """Read, and print what the other program asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=LIBRARIES, metavar="LIBRARY", help=", ".join(LIBRARIES))
    parser.add_argument("folder", type=Path, help="what the library has written")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default 0: none)")
    parser.add_argument("--state", type=Path, help="resume from this file")
    parser.add_argument(
        "--batches", type=int, default=1, help="batches to read, at most to the epoch's end (default 1)"
    )
    parser.add_argument("--save", type=Path, help="file for the state after them")
    parser.add_argument("--write", type=Path, help="write the files NAME.image.png and NAME.label.png of this folder")
    parser.add_argument("--turns", action="store_true", help="read on and on; each line of the input asks for a rate")
    args = parser.parse_args()
    torch.set_num_threads(1)
    library = LIBRARIES[args.library](args.folder)
    if args.write:
        parts = (sorted(args.write.glob(f"*.{part}.png")) for part in ("image", "label"))
        library.write(list(zip(*parts, strict=True)))
        return 0
    state = pickle.loads(args.state.read_bytes()) if args.state else None
    begin = time.time()
    loader = library.loader(args.workers, state)
    if args.turns:
        print_rates(loader, args.workers)
        return 0
    first, numbers = 0.0, []
    for _, _, own in islice(loader, args.batches):
        first = first or time.time()
        numbers += own.tolist()
    if args.save:
        args.save.write_bytes(pickle.dumps(library.state(loader, args.batches)))
    print(json.dumps({"first": first, "loader_s": first - begin, "numbers": numbers}), flush=True)
    return 0


def print_rates(loader: Iterable[Any], workers: int) -> None:
    """Images per CPU second of 8 batches without loader processes; with them per second, in 4 s after 3 s to settle.

    What the loader of the turn before still does, and full queues of this one, do not count so.
    """
    batches = forever(loader)
    next(batches)
    for _ in sys.stdin:
        if workers:
            batches_in(batches, 3.0)
            start = time.perf_counter()
            rate = batches_in(batches, 4.0) * BATCH / (time.perf_counter() - start)
        else:
            start = time.process_time()
            images = sum(len(own) for _, _, own in islice(batches, 8))
            rate = images / (time.process_time() - start)
        print(json.dumps(rate), flush=True)


if __name__ == "__main__":
    sys.exit(main())
