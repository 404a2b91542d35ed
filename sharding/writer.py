"""All shards of a dataset: written beside the target, moved there when whole, continued where a run stopped."""

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from msanet.data.manifest import (
    BAD_SAMPLES_NAME,
    MANIFEST_NAME,
    Manifest,
    index_name,
    load_manifest,
    load_shard_index,
)
from msanet.errors import UserError
from msanet.files import PARTIAL, sync, write_text
from msanet.logs import ProgressBar
from sharding.bad_samples import (
    bad_name,
    check_bad_fraction,
    collect_bad_samples,
    refuse_bad_samples,
)
from sharding.bands import image_format
from sharding.manifest_parts import manifest_header, read_splits
from sharding.notes import Notes, add_notes, log_notes
from sharding.plan import ShardPlan, plan_shards
from sharding.readers.mask_reader import reader_of
from sharding.readers.reader import DatasetListing
from sharding.reuse import load_reusable, remove_reusable, set_aside, write_reusable
from sharding.shard import PackingJob, sample_digest, write_shards
from sharding.tree import Tree
from sharding.workers import group_items, run_groups

logger = logging.getLogger(__name__)

_LOCK = ".lock"
_OURS = re.compile(
    rf"(.+-\d{{6}}\.(tar|idx\.json|bad\.json)|reuse-[0-9a-f]{{16}}\.(tar|json)|{re.escape(MANIFEST_NAME)}|"
    rf"{re.escape(BAD_SAMPLES_NAME)})({re.escape(PARTIAL)})?|{re.escape(_LOCK)}"
)


@dataclass(frozen=True)
class PackOptions:
    """How to pack.

    codec: one of msanet.data.image.codec.CODECS. shard_bytes: source bytes a shard. workers: processes, at least 1.
    skip_bad: pack without the samples that are bad. max_bad_fraction: of all samples; None: 0.01, and always a few.
    bands: how --bands chooses them; None: images are packed as 8-bit RGB.
    """

    codec: str
    shard_bytes: int
    workers: int
    skip_bad: bool = False
    max_bad_fraction: float | None = None
    bands: str | None = None


@dataclass(frozen=True)
class Packed:
    """The dataset as it lies in `folder`. written, kept: shards of this run, and those finished before it."""

    folder: Path
    manifest: Manifest
    written: int
    kept: int


def pack(found: DatasetListing, tree: Tree, out: Path, options: PackOptions) -> Packed:
    """Write the shards of `found` to the folder `out`, which is whole or absent at any time.

    The work is done in `partial_folder(out)`. A run that was killed, or that met bad samples, leaves there what it packed, and
    the same call continues it. Where `out` is already the dataset of this call, nothing is written. Raises UserError that
    names all bad samples, unless they are to be skipped; WorkerLost if a worker was killed. What can be seen before
    reading the images is raised first, and touches no folder.
    """
    tree = found.tree or tree
    image = image_format(found, tree, options.bands, options.codec)
    plans = plan_shards(found, tree, options.codec, options.shard_bytes, image)
    header = manifest_header(found.spec, options.codec, image)
    out = out.resolve()
    if _is_used(out):
        return Packed(out, _finished_dataset(out, plans, options.skip_bad), written=0, kept=len(plans))
    partial = partial_folder(out)
    _refuse_foreign(partial)
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
        try:
            return _pack_into(partial, out, found, tree, header, plans, options)
        except UserError:
            _remove_if_useless(partial)
            raise


def _pack_into(
    partial: Path,
    out: Path,
    found: DatasetListing,
    tree: Tree,
    header: Manifest,
    plans: Sequence[ShardPlan],
    options: PackOptions,
) -> Packed:
    todo = _clean(partial, plans, options.skip_bad)
    decode = found.decode or reader_of(found.spec)
    reusable = load_reusable(partial)
    job = PackingJob(tree, found.spec, decode, options.codec, partial, options.skip_bad, reusable, header.image)
    _write_todo(job, plans, todo, options.workers)
    bad, total = collect_bad_samples(partial, plans), sum(len(plan.pairs) for plan in plans)
    if bad and not (options.skip_bad and not any(one.is_lost for one in bad)):
        _keep_for_next_try(job, plans)
        raise refuse_bad_samples(bad, total, partial)
    check_bad_fraction(bad, total, options.max_bad_fraction, partial)
    remove_reusable(partial)
    manifest = Manifest(**{**dict(header), "splits": read_splits(partial, plans)})
    _warn_of_empty(manifest)
    write_text(partial / MANIFEST_NAME, manifest.to_json())
    for plan in plans:
        (partial / bad_name(plan)).unlink(missing_ok=True)
    (partial / _LOCK).unlink()
    partial.rename(out)
    sync(out.parent)
    return Packed(out, manifest, written=len(todo), kept=len(plans) - len(todo))


def _warn_of_empty(manifest: Manifest) -> None:
    for name, split in manifest.splits.items():
        if not any(split.histogram):
            logger.warning(
                f"split '{name}' has no labeled pixel, all {split.ignored} are ignored: it cannot be trained on or evaluated; "
                "check the ids and colors of its masks if that was not meant"
            )


def partial_folder(out: Path) -> Path:
    """Where the dataset for `out` lies until it is whole; beside it, since only that can be renamed at once."""
    return out.with_name(out.name + PARTIAL)


def _is_used(out: Path) -> bool:
    """Whether `out` holds something. Raises UserError where no dataset could ever stand there."""
    if os.path.ismount(out):
        raise UserError(
            "MSA-PACK-010",
            f"'{out}' is a mount point, expected a folder that can be renamed; choose a folder inside it",
            setting="--out",
        )
    if out.exists() and not out.is_dir():
        raise UserError(
            "MSA-PACK-010", f"'{out}' is a file, expected a new or empty folder; choose another --out", setting="--out"
        )
    return out.exists() and any(out.iterdir())


def _finished_dataset(out: Path, plans: Sequence[ShardPlan], skip_bad: bool) -> Manifest:
    """The manifest of `out` if it is what `plans` would give. Raises UserError for anything else."""
    other = UserError(
        "MSA-PACK-011",
        f"'{out}' is not empty and is not the dataset of this command (other source, options or version), expected a "
        "new or empty folder; choose another --out or remove it",
        setting="--out",
    )
    if not (out / MANIFEST_NAME).is_file():
        raise other
    manifest = load_manifest(out)
    files = {shard.file for split in manifest.splits.values() for shard in split.shards}
    may_lack = skip_bad and (out / BAD_SAMPLES_NAME).is_file()
    written = [plan for plan in plans if plan.file in files or not may_lack]
    if files != {plan.file for plan in written} or not all(_is_finished(out, plan, may_lack) for plan in written):
        raise other
    return manifest


def _is_finished(folder: Path, plan: ShardPlan, may_lack: bool) -> bool:
    """Whether the shard is there as planned. may_lack: bad samples of it may be missing."""
    tar = folder / plan.file
    try:
        index = load_shard_index(folder, plan.file)
    except UserError:
        return False
    is_ours = index.plan in (plan.digest, plan.earlier_digest)
    is_complete = may_lack or len(index.samples) == len(plan.pairs)
    return is_ours and is_complete and tar.is_file() and tar.stat().st_size == index.bytes


def _refuse_foreign(partial: Path) -> None:
    """UserError if `partial` is anything but what a stopped run left: the rest is not ours to remove."""
    if partial.exists() and not partial.is_dir():
        raise UserError("MSA-PACK-012", f"'{partial}' is a file, expected a folder or nothing; move it away")
    foreign = sorted(p.name for p in partial.iterdir() if not _OURS.fullmatch(p.name)) if partial.exists() else []
    if foreign:
        raise UserError(
            "MSA-PACK-012", f"'{partial}' holds '{foreign[0]}', expected only what a stopped run left; move it away"
        )


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Keep a second run of the same command out; the kernel frees the lock of a run that was killed."""
    with (partial / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "MSA-PACK-013", f"another run is writing '{partial}', expected one at a time; wait for it or stop it"
            ) from None
        except OSError:
            pass  # a file system without locks: the user's care is all there is
        yield


def _clean(partial: Path, plans: Sequence[ShardPlan], skip_bad: bool) -> list[ShardPlan]:
    """Remove all but the finished shards of `plans` and what can be reused; the plans that are still to be written, in order."""
    records = {plan.file: bad_name(plan) for plan in plans if skip_bad and (partial / bad_name(plan)).is_file()}
    finished = {plan.file for plan in plans if _is_finished(partial, plan, plan.file in records)}
    keep = {_LOCK, *finished, *map(index_name, finished), *(records[file] for file in records.keys() & finished)}
    set_aside(partial, (path.name for path in list(partial.iterdir()) if path.name not in keep))
    for path in partial.iterdir():
        if path.name not in keep and not path.name.startswith("reuse-"):
            path.unlink()
    return [plan for plan in plans if plan.file not in finished]


def _keep_for_next_try(job: PackingJob, plans: Sequence[ShardPlan]) -> None:
    """Say what the finished shards hold, too: files that are replaced or removed change which samples go together."""
    remove_reusable(job.folder, keep=[plan.digest for plan in plans if (job.folder / bad_name(plan)).is_file()])
    for plan in plans:
        if (job.folder / plan.file).is_file():
            index = load_shard_index(job.folder, plan.file)
            digests = [sample_digest(job, pair) for pair in plan.pairs]
            write_reusable(job.folder, plan.digest, plan.file, digests, index.samples)


def _remove_if_useless(partial: Path) -> None:
    """Remove the folder where it holds neither a finished shard, nor a sample to be reused, nor a list of bad ones."""
    if not any(path.name.endswith((".idx.json", ".tar", BAD_SAMPLES_NAME)) for path in partial.iterdir()):
        shutil.rmtree(partial)


def _write_todo(job: PackingJob, plans: Sequence[ShardPlan], todo: Sequence[ShardPlan], workers: int) -> None:
    total, left = (sum(len(plan.pairs) for plan in some) for some in (plans, todo))
    with ProgressBar(total, job.spec.name, unit="samples", initial=total - left) as bar:
        try:
            groups = group_items(todo, lambda plan: len(plan.pairs), workers)
            notes: Notes = {}
            for found in run_groups(write_shards, job, groups, workers, bar.update):
                add_notes(notes, found)
            log_notes(notes)
        except OSError as error:  # a full disk, say: what is finished stays
            error.filename = error.filename or str(job.folder)  # a failed write names no file
            raise
