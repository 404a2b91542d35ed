"""What benchmarks/gpu.sh needs on a machine that reaches no registry: CamVid's shards, small, and the packages that it lacks.

    python benchmarks/gpu_carry.py CAMVID FOLDER [--quality 80] [--images N] [--python 3.12] [--packages NAME ...]

CAMVID: train/, trainannot/, val/, valannot/ with PNG files, as SegNet's authors distribute them. FOLDER gets shards/ (images as
JPEG of that quality, 35 kB each instead of 260 as PNG; labels exact) and wheels/ (for `gpu.sh --wheels`), 55 MB together at
most. CamVid's test split stays behind. The wheels are those of requirements.txt for Linux on x86-64 and that version of Python,
without what they need in turn: the machine is expected to have torch, torchvision, NumPy, OpenCV, matplotlib, tensorboard, pytest
and what else machine learning images have.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from msanet.datasets import CAMVID, IGNORE_INDEX  # noqa: E402
from sharding.__main__ import main as shard  # noqa: E402

PACKAGES = (
    "deepspeed", "hjson", "webdataset", "braceexpand", "imagecodecs", "pydantic", "pydantic_core", "annotated-types",
    "typing-inspection",
)  # fmt: skip
"""What machines with torch may lack."""
SPLITS, MOST_BYTES = ("train", "val"), 55_000_000
GLIBC = (17, 24, 27, 28, 31, 34)
"""Minor versions of glibc 2 whose wheels are taken: pip compares exactly."""


def main() -> int:
    """Fill the folder. 1 if it is too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="CAMVID")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new, or made by this command")
    parser.add_argument("--quality", type=int, default=80, help="of the JPEG images (default: 80)")
    parser.add_argument("--images", type=int, default=10**6, help="of each split, at most")
    parser.add_argument("--python", default="3.12", help="version on the machine (default: 3.12)")
    parser.add_argument("--packages", nargs="*", default=PACKAGES, help="missing there; none: no wheels")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        as_jpeg(args.source, Path(folder), args.quality, args.images)
        words = ["folder", "--source", folder, "--out", str(args.folder / "shards"), "--codec", "original"]
        if code := shard([*words, "--classes", f"{folder}/classes.yaml"]):
            return code
    if args.packages:
        download(args.packages, args.python, args.folder / "wheels")
    size = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file())
    print(f"{args.folder}: {size / 1e6:.1f} MB")
    if size > MOST_BYTES:
        print(f"error: more than {MOST_BYTES / 1e6:.0f} MB; lower --quality or --images, or give fewer --packages")
    return int(size > MOST_BYTES)


def as_jpeg(source: Path, folder: Path, quality: int, most: int) -> None:
    """The same dataset in a layout of `python -m sharding folder`, with the classes in CamVid's order."""
    for split in SPLITS:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for path in sorted((source / split).glob("*.png"))[:most]:
            image = cv2.imread(str(path))
            assert image is not None, f"{path} cannot be read"
            target = str(folder / "images" / split / f"{path.stem}.jpg")
            cv2.imwrite(target, image, [cv2.IMWRITE_JPEG_QUALITY, quality])
            label = source / f"{split}annot" / path.name
            (folder / "labels" / split / path.name).write_bytes(label.read_bytes())
    names = zip(CAMVID.classes, CAMVID.palette, strict=True)
    classes = [{"id": number, "name": name, "color": list(color)} for number, (name, color) in enumerate(names)]
    ignore = [value for value, train_id in CAMVID.train_ids.items() if train_id == IGNORE_INDEX]
    tree = {"name": "camvid-jpeg", "classes": classes, "ignore": ignore}
    (folder / "classes.yaml").write_text(yaml.safe_dump(tree))


def download(packages: list[str], python: str, folder: Path) -> None:
    """Wheels of the pinned versions; DeepSpeed, which is distributed as source, is built without its kernels."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-"): line for line in lines if "==" in line}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    pip, wanted = [sys.executable, "-m", "pip"], [pinned[name.lower().replace("_", "-")] for name in packages]
    built = [line for line in wanted if line.startswith("deepspeed==")]
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["--platform=manylinux2014_x86_64"]
    target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
    subprocess.run(
        [
            *pip,
            "download",
            "--quiet",
            "--no-deps",
            *target,
            "-d",
            folder,
            *(line for line in wanted if line not in built),
        ],
        check=True,
    )
    if built:
        subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", folder, *built], check=True)


if __name__ == "__main__":
    sys.exit(main())
