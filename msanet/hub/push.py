"""A trained network into a repository of the Hub: all of it in one commit, or nothing."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msanet.errors import UserError
from msanet.hub.client import hub_client, hub_errors
from msanet.hub.scores import Scores
from msanet.models.io import ModelMetadata
from msanet.run_layout import CheckpointLayout

METADATA_FILE = "metadata.json"
README_FILE = "README.md"
IS_OURS = re.compile(
    rf"{re.escape(CheckpointLayout.MODEL)}|{METADATA_FILE}|{README_FILE}|evaluation-[\w.-]+\.(json|npz)"
)
"""Names of the files that `push` writes, and the only ones that `pull` reads."""


def push_network(
    repository: str,
    weights: Path,
    metadata: ModelMetadata,
    readme: str,
    scores: Sequence[Scores],
    private: bool = False,
    revision: str | None = None,
) -> str:
    """Create the repository and the branch if there are none, and commit; returns the commit's address.

    Evaluations of an earlier push that are not among `scores` are removed in the same commit.

    Args:
        repository: OWNER/NAME.
        weights: A model.safetensors.
        metadata: Its.
        readme: Markdown.
        scores: Evaluations of the weights.
        private: If the repository is created, only its owner sees it.
        revision: A branch; None for `main`.

    Raises:
        UserError: The Hub refuses, fails or cannot be reached. Nothing is committed then, and a second push does not upload
            again what has arrived.
    """
    client = hub_client()
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    contents: dict[str, Path | bytes] = {
        CheckpointLayout.MODEL: weights,
        METADATA_FILE: (metadata.model_dump_json(indent=1) + "\n").encode(),
        README_FILE: readme.encode(),
        **{path.name: path for found in scores for path in found.files},
    }
    with hub_errors(f"pushing to {repository}", "nothing was committed"):
        client.create_repo(repository, private=private or None, exist_ok=True)
        if revision:
            client.create_branch(repository, branch=revision, exist_ok=True)
        info = client.model_info(repository, revision=revision)
        stale = [file.rfilename for file in info.siblings or () if IS_OURS.fullmatch(file.rfilename)]
        if private and not info.private:
            raise UserError(
                "MSA-HUB-010",
                f"--private is given, but {repository} exists and is public; nothing was pushed, change it on the Hub or remove "
                "--private",
                setting="--private",
            )
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in contents.items()]
        operations += [CommitOperationDelete(name) for name in stale if name not in contents]
        message = f"{metadata.name}, step {metadata.step}"
        commit = client.create_commit(repository, operations, commit_message=message, revision=revision)
    return str(commit.commit_url)
