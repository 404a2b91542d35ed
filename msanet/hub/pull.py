"""A network out of a repository of the Hub into a folder, which is complete or absent."""

import shutil
from pathlib import Path
from typing import Any

from msanet.errors import UserError
from msanet.evaluation.measurement import sha256_of
from msanet.files import PARTIAL, sync
from msanet.hub.client import hub_client, hub_errors
from msanet.hub.push import IS_OURS
from msanet.models.io import ModelMetadata, load_weights
from msanet.run_layout import CheckpointLayout


def pull_network(repository: str, revision: str | None, out: Path) -> tuple[ModelMetadata, str]:
    """Download what `push` has written; returns the metadata and the commit.

    Files of other names are not read, and no code of the repository is ever run. What an interrupted pull has downloaded
    lies in OUT.partial, and is not downloaded again.

    Args:
        repository: OWNER/NAME.
        revision: Branch, tag or commit; None for `main`.
        out: A folder that does not exist, or is empty.

    Raises:
        UserError: `out` has files, or the Hub refuses, fails, cannot be reached or sends what is not a network.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(
            "MSA-HUB-008",
            f"--out '{out}' exists, expected a new or empty folder; choose another --out",
            setting="--out",
        )
    client = hub_client()
    partial = out.with_name(out.name + PARTIAL)
    with hub_errors(f"pulling {repository}", "nothing was downloaded"):
        info = client.model_info(repository, revision=revision, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings or () if IS_OURS.fullmatch(file.rfilename)}
        if CheckpointLayout.MODEL not in files:
            raise UserError(
                "MSA-HUB-006",
                f"{repository} has no {CheckpointLayout.MODEL}, expected a network pushed by msanet; check its name",
                setting="REPOSITORY",
            )
    partial.mkdir(parents=True, exist_ok=True)
    with hub_errors(f"pulling {repository}", f"what was downloaded is kept in '{partial}'"):
        for name in files:
            client.hf_hub_download(repository, name, revision=info.sha, local_dir=partial)
    metadata = _check(repository, partial, files)
    _publish(partial, out, set(files))
    return metadata, str(info.sha)


def _check(repository: str, folder: Path, files: dict[str, Any]) -> ModelMetadata:
    for name, file in files.items():
        if file.lfs and sha256_of(folder / name) != file.lfs.sha256:
            shutil.rmtree(folder)
            raise UserError(
                "MSA-HUB-006", f"{name} of {repository} arrived damaged (another sha256); run the same command again"
            )
    try:
        return load_weights(folder / CheckpointLayout.MODEL)[1]
    except UserError as error:
        shutil.rmtree(folder)
        raise UserError(
            "MSA-HUB-006", f"{repository} has no network that msanet can read: {error}", setting="REPOSITORY"
        ) from error


def _publish(partial: Path, out: Path, names: set[str]) -> None:
    """Without what the client or an earlier pull have left there."""
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in names:
            path.unlink()
        else:
            sync(path)
    partial.replace(out)
    sync(out.parent)
