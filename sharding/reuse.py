"""What a packing that met bad samples leaves for its next try: samples are copied then, not made again.

The next try may group the samples into other shards, since files were replaced or removed; so each is known by the digest of
all that decides its bytes. `reuse-<digest>.json` tells of one tar, which is a finished shard, or `reuse-<digest>.tar`.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msanet.data.manifest import Member, SampleIndex
from msanet.errors import UserError
from msanet.files import write_text
from sharding.shard_check import read_member

_FORMAT_VERSION = 1


@dataclass(frozen=True)
class StoredSample:
    """Where the members of one sample lie."""

    tar: Path
    members: tuple[Member, ...]

    def read(self) -> dict[str, bytes] | None:
        """{extension: bytes}, or None where they are not what they were."""
        try:
            descriptor = os.open(self.tar, os.O_RDONLY)
            try:
                return {member.extension: read_member(descriptor, member) for member in self.members}
            finally:
                os.close(descriptor)
        except (OSError, UserError):
            return None


def reuse_name(plan_digest: str) -> str:
    """Of the tar with the good samples of a shard that has bad ones."""
    return f"reuse-{plan_digest[:16]}.tar"


def write_reusable(
    folder: Path, plan_digest: str, tar: str, digests: Iterable[str], samples: Sequence[SampleIndex]
) -> None:
    """Say what `tar` holds: the digest of each of its samples, and where its members lie."""
    rows = [
        {"digest": digest, "members": [member.model_dump() for member in sample.members]}
        for digest, sample in zip(digests, samples, strict=True)
    ]
    path = (folder / reuse_name(plan_digest)).with_suffix(".json")
    write_text(path, json.dumps({"format_version": _FORMAT_VERSION, "tar": tar, "samples": rows}) + "\n")


def load_reusable(folder: Path) -> dict[str, StoredSample]:
    """{digest: sample} of all that earlier tries left in `folder`; what cannot be read is made again."""
    found = {}
    for path, content in _records(folder):
        own = path.with_suffix(".tar")
        tar = own if own.exists() else folder / Path(content["tar"]).name
        for row in content["samples"]:
            found[row["digest"]] = StoredSample(tar, tuple(Member(**member) for member in row["members"]))
    return found


def set_aside(folder: Path, shards: Iterable[str]) -> None:
    """Rename those of these shards that can be reused, so that no other takes their place."""
    names = {*shards}
    for path, content in _records(folder):
        if content["tar"] in names and (folder / content["tar"]).exists():
            (folder / content["tar"]).rename(path.with_suffix(".tar"))


def remove_reusable(folder: Path, keep: Iterable[str] = ()) -> None:
    """Remove what can be reused, but for the tars of these plans."""
    names = {reuse_name(digest) for digest in keep}
    for path in folder.glob("reuse-*"):
        if path.with_suffix(".tar").name not in names:
            path.unlink()


def _records(folder: Path) -> list[tuple[Path, dict]]:
    records = []
    for path in sorted(folder.glob("reuse-*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if content.get("format_version") == _FORMAT_VERSION:
            records.append((path, content))
    return records
