"""A small project of the kind that docs/migrate talks about: its dataset, and a `my_project` for each page."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = """\
classes:
  - {id: 0, name: field, color: [10, 200, 10]}
  - {id: 1, name: road, color: [90, 90, 90]}
  - {id: 2, name: water, color: [10, 10, 200]}
"""
_DATA = """\
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

names = sorted(path.stem for path in Path("data/images/val").glob("*.jpg"))

def read(split):
    for path in sorted(Path("data/images", split).glob("*.jpg")):
        label = Image.open(Path("data/annotations", split, path.stem + ".png"))
        image = torch.tensor(np.array(Image.open(path))).permute(2, 0, 1) / 255
        yield image, torch.tensor(np.array(label)).long()

train_loader, val_loader = (DataLoader([*read(split)], batch_size=2) for split in ("train", "val"))
train, val = ([{"pixel_values": image, "labels": label} for image, label in read(split)] for split in ("train", "val"))
"""
_MODEL = """
from transformers import SegformerConfig, SegformerForSemanticSegmentation
model = SegformerForSemanticSegmentation(SegformerConfig.from_pretrained("nvidia/mit-b0", num_labels=3))
"""
_SEGMENTER = """
import lightning
class Segmenter(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Conv2d(3, 3, 1)
    def forward(self, images):
        return self.network(images)
    def training_step(self, batch, number):
        return torch.nn.functional.cross_entropy(self(batch["images"]), batch["labels"], ignore_index=255)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
trainer = lightning.Trainer(logger=False, enable_checkpointing=False)
"""
_EVALUATED = "\nevaluated = [(label[None] % 3, label[None]) for _, label in read('val')]\n"
MY_PROJECT = {
    "index": _DATA + _MODEL + _SEGMENTER,
    "from-mmsegmentation": _DATA + _EVALUATED,
    "from-smp-lightning": _DATA + _SEGMENTER,
    "from-transformers": _DATA + _MODEL,
}
"""my_project.py of each page."""
WEIGHTS = """\
import torch
from transformers import SegformerConfig, SegformerModel
import segmentation_models_pytorch as smp
SegformerModel(SegformerConfig()).save_pretrained("nvidia/mit-b0")
encoder = smp.encoders.get_encoder("mit_b0").state_dict()
torch.save(encoder, "mit_b0.pth")
"""
"""The files of weights that pages name."""


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _pair(rng: np.random.Generator, values: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """An image (64, 64, 3) and a label (64, 64) with a border of 255."""
    label = rng.choice(np.array(values, np.uint8), (8, 8)).repeat(8, 0).repeat(8, 1)
    image = (label[..., None] * 20 + rng.integers(0, 40, (*label.shape, 3))).astype(np.uint8)
    label[:2] = 255
    return image, label


def write_datasets(root: Path) -> None:
    """`data`, `preds` and `classes.yaml`; `cityscapes` with `gtFine` and `preds-cityscapes`; `VOCdevkit`."""
    rng = np.random.default_rng(0)
    (root / "classes.yaml").write_text(CLASSES)
    for split, images in (("train", 8), ("val", 4)):
        for number in range(images):
            image, label = _pair(rng, [0, 1, 2])
            _write(root / f"data/images/{split}/{number}.jpg", image)
            _write(root / f"data/annotations/{split}/{number}.png", label)
            if split == "val":
                _write(root / f"preds/{number}.png", np.where(label == 255, 0, label)[::-1].copy())
        _write_cityscapes(root, split, *_pair(rng, [7, 11, 26]))
        _write_voc(root / "VOCdevkit/VOC2012", split, *_pair(rng, [0, 1, 15]))
    shutil.copytree(root / "cityscapes/gtFine", root / "gtFine")


def _write_cityscapes(root: Path, split: str, image: np.ndarray, label: np.ndarray) -> None:
    name = f"{split}/ulm/ulm_000000_000000"
    _write(root / f"cityscapes/leftImg8bit/{name}_leftImg8bit.png", image)
    _write(root / f"cityscapes/gtFine/{name}_gtFine_labelIds.png", np.where(label == 255, 0, label))
    train_ids = np.choose(np.searchsorted([7, 11, 26, 255], label), [0, 2, 13, 0]).astype(np.uint8)
    if split == "val":
        _write(root / "preds-cityscapes/ulm_000000_000000_leftImg8bit.png", train_ids)


def _write_voc(root: Path, split: str, image: np.ndarray, label: np.ndarray) -> None:
    _write(root / f"JPEGImages/{split}_1.jpg", image)
    _write(root / f"SegmentationClass/{split}_1.png", label)
    (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{split}_1\n")


def write_parquet(root: Path) -> None:
    """`dataset`, as Hugging Face's datasets export it."""
    from pyarrow import Table, parquet  # type: ignore[import-untyped]

    (root / "dataset/data").mkdir(parents=True)
    (root / "dataset/id2label.json").write_text('{"0": "field", "1": "road", "2": "water"}')
    for split in ("train", "val"):
        paths = sorted((root / "data/images" / split).iterdir())
        masks = [root / "data/annotations" / split / f"{path.stem}.png" for path in paths]
        columns = {
            name: [{"bytes": path.read_bytes(), "path": path.name} for path in files]
            for name, files in (("image", paths), ("label", masks))
        }
        parquet.write_table(Table.from_pydict(columns), root / f"dataset/data/{split}-00000-of-00001.parquet")
