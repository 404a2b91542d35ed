"""Planned shards to tars and their indexes. Runs in a worker process; knows nothing of the others."""

import hashlib
import json
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from msanet.data.image.bands import BandSums, add_sums, band_sums
from msanet.data.image.codec import IMAGE_EXTENSIONS, INSTANCES, decode_instances, decode_label, encode_members
from msanet.data.image.damage import decoder_messages, find_damage
from msanet.data.image.photo import TURNED, Photo, damaged, read_photo
from msanet.data.manifest import Member, SampleIndex, ShardIndex, index_name
from msanet.datasets import DatasetSpec
from msanet.datasets.image_format import ImageFormat
from msanet.errors import UserError
from msanet.files import PARTIAL, sync
from sharding.bad_samples import BadSamples
from sharding.bands import read_alike
from sharding.notes import Notes, note, take_notes
from sharding.plan import ShardPlan, plan_digest
from sharding.readers.labels import Decode, source_damage
from sharding.readers.reader import SamplePaths
from sharding.reuse import StoredSample, reuse_name, write_reusable
from sharding.tree import Tree
from sharding.workers import OnSample

if TYPE_CHECKING:
    from webdataset.writer import TarWriter

OWNER = "msanet"
BANDS = "bands"
"""Key of the sums over an image's bands in the json of its sample."""
_SYNC_THREADS = 8


@dataclass(frozen=True)
class PackingJob:
    """What all shards of a run share: the source, the classes, how labels are read, the codec, the folder to write to.

    skip_bad: a shard is complete without its bad samples. reusable: samples of an earlier try, by digest. image: what all
    images are, where their bands are packed; None: 8-bit RGB.
    """

    tree: Tree
    spec: DatasetSpec
    decode: Decode
    codec: str
    folder: Path
    skip_bad: bool = False
    reusable: Mapping[str, StoredSample] = field(default_factory=dict)
    image: ImageFormat | None = None


@dataclass(frozen=True)
class PackedSample:
    """One sample as it goes into the tar, and the pixels (ignore_index + 1,) of each train id in its label."""

    key: str
    members: dict[str, bytes]
    histogram: np.ndarray


def write_shards(job: PackingJob, plans: Sequence[ShardPlan], on_sample: OnSample) -> Notes:
    """Write the tars of `plans`, then their indexes; each under a temporary name until it is complete and on the disk.

    A shard is finished when its index is there; those before one that fails, or is stopped, become finished too.
    Bad samples are recorded next to it (sharding.bad_samples); unless they are to be skipped, the others are kept for the
    next try, without an index. on_sample is called after each sample and may raise to stop the work. Raises UserError if
    most samples are bad.
    """
    indexes: list[ShardIndex] = []
    try:
        indexes.extend(index for plan in plans if (index := write_tar(job, plan, on_sample)))
    finally:
        _put_in_place(job.folder, [index.file for index in indexes])
        for index in indexes:
            temporary = job.folder / (index_name(index.file) + PARTIAL)
            temporary.write_text(index.model_dump_json(exclude_none=True) + "\n", encoding="utf-8")
        _put_in_place(job.folder, [index_name(index.file) for index in indexes])
        sync(job.folder)
    return take_notes()


def _put_in_place(folder: Path, names: Sequence[str]) -> None:
    """Give complete files their names. Threads, since a disk makes many small files last as fast as one."""
    temporaries = [folder / (name + PARTIAL) for name in names]
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(sync, temporaries))
    for temporary, name in zip(temporaries, names, strict=True):
        temporary.rename(folder / name)


def write_tar(job: PackingJob, plan: ShardPlan, on_sample: OnSample) -> ShardIndex | None:
    """Write the tar of `plan` under its temporary name; its index, or None where it is not complete."""
    bad, good = BadSamples(plan), list[SamplePaths]()
    histogram = np.zeros(job.spec.ignore_index + 1, dtype=np.int64)
    temporary = job.folder / (plan.file + PARTIAL)
    with temporary.open("wb") as file, _open_tar(file) as tar:
        for pair in plan.pairs:
            try:
                sample = _reused_sample(job, pair) or read_sample(job, pair)
            except UserError as error:
                bad.add(pair, error, len(good))
            else:
                # TarWriter sorts the members of one call; one call each keeps ours: image, label, instances, json.
                for extension, data in sample.members.items():
                    tar.write({"__key__": sample.key, extension: data})
                histogram += sample.histogram
                good.append(pair)
            on_sample()
    bad.write(job.folder)
    if not good:
        temporary.unlink()
        return None
    index = _read_back(temporary, plan, histogram, job.spec)
    if bad.found and not (job.skip_bad and bad.may_be_skipped):
        tar = reuse_name(plan.digest)
        sync(temporary)
        temporary.rename(job.folder / tar)
        write_reusable(job.folder, plan.digest, tar, [sample_digest(job, pair) for pair in good], index.samples)
        return None
    return index


def _open_tar(file: BinaryIO) -> "TarWriter":
    from webdataset.writer import TarWriter  # imports torch, which takes seconds: not before there is work

    tar = TarWriter(file, user=OWNER, group=OWNER, mode=0o444, mtime=0, encoder=False, compress=False)
    # Names of other alphabets as they are, where the form pax would put one more header before each file.
    tar.tarstream.format, tar.tarstream.encoding = tarfile.USTAR_FORMAT, "utf-8"
    return tar


def _reused_sample(job: PackingJob, pair: SamplePaths) -> PackedSample | None:
    """The sample as an earlier try made it."""
    stored = job.reusable.get(sample_digest(job, pair)) if job.reusable else None
    members = stored.read() if stored else None
    if members is None:
        return None
    label = next(extension for extension in members if extension.startswith("label."))
    return PackedSample(pair.key, members, _histogram(decode_label(members[label], label), job.spec))


def sample_digest(job: PackingJob, pair: SamplePaths) -> str:
    """sha256 of all that decides the bytes of one sample."""
    return plan_digest("", [pair], job.spec, job.decode, job.tree, job.codec, job.image)


def _histogram(label_HW: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    return np.bincount(label_HW.ravel(), minlength=spec.ignore_index + 1)


def read_sample(job: PackingJob, pair: SamplePaths) -> PackedSample:
    """Read, decode, check and encode one pair. Raises UserError, naming the file, if its image or label is invalid."""
    return encode_sample(job, pair, *read_pair(job, pair))


def read_pair(job: PackingJob, pair: SamplePaths) -> tuple[bytes, Photo, np.ndarray]:
    """The first half of `read_sample`: the image's file, the photo and its label (H, W). Raises UserError."""
    image = job.tree.read(pair.image)
    photo, label_HW = decode_pair(job.tree, job.decode, job.spec, pair, image, job.image)
    for text in photo.notes:
        note(text, job.tree.show(pair.image))
    return image, photo, label_HW


def encode_sample(job: PackingJob, pair: SamplePaths, image: bytes, photo: Photo, label_HW: np.ndarray) -> PackedSample:
    """The second half of `read_sample`, of what `read_pair` returns. Raises UserError."""
    size = photo.pixels_HWC.shape[:2]
    source = image if photo.is_stored_so else None
    members = encode_members(job.codec, source, _extension(pair.image), photo.pixels_HWC, label_HW)
    if pair.instances is not None:
        members[INSTANCES] = read_instances(job.tree, pair.instances, size)
    crc32 = {extension.partition(".")[0]: zlib.crc32(data) for extension, data in members.items()}
    facts = {"id": pair.id, "height": size[0], "width": size[1], "crc32": crc32}
    if job.image is not None:
        facts[BANDS] = band_sums(photo.pixels_HWC).model_dump()
    members["json"] = json.dumps(facts).encode()
    return PackedSample(pair.key, members, _histogram(label_HW, job.spec))


def decode_pair(
    tree: Tree, decode: Decode, spec: DatasetSpec, pair: SamplePaths, image: bytes, form: ImageFormat | None = None
) -> tuple[Photo, np.ndarray]:
    """The photo, whose file has the bytes `image`, and its label of train ids (H, W). Raises UserError, naming the file.

    form: what the image is to be, where its bands are packed.
    """
    with source_damage():
        name = tree.show(pair.image)
        photo = read_photo(image, name) if form is None else Photo(read_alike(image, name, form), is_stored_so=False)
    size = photo.pixels_HWC.shape[:2]
    label_HW = decode_pair_label(tree, decode, spec, pair, size)
    if label_HW.shape != size:
        raise UserError(
            "MSA-PACK-024",
            f"label '{_label_name(tree, pair)}' is {_size(label_HW.shape)} but its image '{pair.image}' is {_size(size)}"
            f"{_turn(photo.notes, label_HW.shape == size[::-1])}, expected the same size; replace one of them",
        )
    return photo, label_HW


def decode_pair_label(
    tree: Tree, decode: Decode, spec: DatasetSpec, pair: SamplePaths, size: tuple[int, ...]
) -> np.ndarray:
    """The label of train ids (H, W) of an image of `size`. Raises UserError, naming the file."""
    with source_damage():
        label, name = _label(tree, pair)
        takes_size = getattr(decode, "takes_size", False)
        label_HW = decode(label, name, size) if takes_size else decode(label, name)  # type: ignore[call-arg]
        return _train_ids(label_HW, name, spec)


def _label(tree: Tree, pair: SamplePaths) -> tuple[bytes, str]:
    """The label's bytes, and its name for errors."""
    data = tree.read(pair.label) if pair.annotation is None else pair.annotation.encode()
    return data, _label_name(tree, pair)


def _label_name(tree: Tree, pair: SamplePaths) -> str:
    name = tree.show(pair.label)
    return name if pair.annotation is None else f"{name} ({pair.id})"


def read_instances(tree: Tree, path: str, size: tuple[int, ...]) -> bytes:
    """The file as it was found, once it is known to be sound."""
    data, name = tree.read(path), tree.show(path)
    with source_damage():
        with decoder_messages() as said:
            found = decode_instances(data, name).shape
        damage = find_damage(data, said)
        if damage:
            raise damaged(name, data, damage)
    if found != size:
        raise UserError(
            "MSA-PACK-024", f"instance map '{name}' is {_size(found)}, expected {_size(size)} as its image; replace it"
        )
    return data


def _extension(image_path: str) -> str:
    extension = image_path.rpartition(".")[2].lower().replace("jpeg", "jpg")
    if extension not in IMAGE_EXTENSIONS:
        raise UserError(
            "MSA-PACK-025",
            f"image '{image_path}' has an unknown extension, expected {', '.join(IMAGE_EXTENSIONS)}; convert it",
        )
    return extension


def _train_ids(ids_HW: np.ndarray, name: str, spec: DatasetSpec) -> np.ndarray:
    ignored_HW = ids_HW < 0 if ids_HW.dtype == (np.int32 if spec.has_16_bits else np.int16) else None
    if ignored_HW is not None:
        ids_HW = _unsigned(np.where(ignored_HW, next(iter(spec.train_ids)), ids_HW), spec)
    elif spec.has_16_bits and ids_HW.dtype == np.uint8:
        ids_HW = ids_HW.astype(spec.id_dtype)
    try:
        train_ids_HW = spec.to_train_ids(ids_HW)
    except UserError as error:
        raise UserError(error.code, f"'{name}': {error}") from error
    if ignored_HW is not None:
        train_ids_HW[ignored_HW] = spec.ignore_index
    return train_ids_HW


def _unsigned(ids_HW: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    """As `spec.id_dtype`; as they are, to be refused, where they do not fit."""
    return ids_HW.astype(spec.id_dtype) if ids_HW.max(initial=0) <= np.iinfo(spec.id_dtype).max else ids_HW


def _turn(notes: Sequence[str], would_fit: bool) -> str:
    """What EXIF has to do with a size that differs."""
    if TURNED in notes:
        return (
            " after its EXIF orientation was applied, as programs that show it do"
            f"{': the label was drawn on the image as stored' if would_fit else ''}"
        )
    return " (the one turned: its EXIF orientation was probably lost)" if would_fit else ""


def _read_back(path: Path, plan: ShardPlan, histogram: np.ndarray, spec: DatasetSpec) -> ShardIndex:
    """The index from the tar as it lies on disk, so that it cannot differ from what was written."""
    members: dict[str, list[Member]] = defaultdict(list)
    bands: list[BandSums] = []
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            for info in tar:
                key, _, extension = info.name.partition(".")
                content = tar.extractfile(info)
                assert content is not None, info.name
                data = content.read()
                crc32 = zlib.crc32(data)
                if extension == "json" and BANDS in (facts := json.loads(data)):
                    bands.append(BandSums.model_validate(facts[BANDS]))
                members[key].append(Member(extension=extension, offset=info.offset_data, length=info.size, crc32=crc32))
    return ShardIndex(
        file=plan.file,
        bytes=path.stat().st_size,
        sha256=sha256,
        plan=plan.digest,
        histogram=tuple(map(int, histogram[: spec.num_classes])),
        ignored=int(histogram[spec.ignore_index]),
        samples=tuple(SampleIndex(key=key, members=tuple(found)) for key, found in members.items()),
        bands=add_sums(bands) if bands else None,
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
