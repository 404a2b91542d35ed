"""`msanet push`: a trained network, with its scores and a README, into a repository of the Hugging Face Hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msanet.cli.parser import new_parser, parse
from msanet.cli.run_arguments import add_run_arguments, find_checkpoint, run_config
from msanet.errors import UserError
from msanet.files import write_text
from msanet.hub.client import parse_repository, require_revision
from msanet.hub.push import push_network
from msanet.hub.readme import readme_text
from msanet.hub.scores import find_scores
from msanet.models.io import load_weights
from msanet.run_layout import RunLayout
from msanet.secrets import without_secrets

_DETAILS = """\
Commits model.safetensors, metadata.json, README.md, and evaluation-<split>.json and .npz of exactly these weights, all at once
or nothing. The README has scores, intervals, how they were measured, and the commands of the run; --readme shows it first.
The token is HF_TOKEN, or that of `hf auth login`; HF_ENDPOINT is another Hub. Needs `pip install 'msanet[hub]'`."""


@dataclass(frozen=True)
class PushJob:
    """What is pushed where. folder: where its evaluations are. readme: write the README to this file, and push nothing."""

    checkpoint: Path
    folder: Path
    repository: str
    private: bool
    revision: str | None
    license: str | None
    has_scores: bool
    readme: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    job = push_job(argv)
    _, metadata = load_weights(job.checkpoint)
    scores = find_scores(job.folder, job.checkpoint, metadata) if job.has_scores else ()
    history = RunLayout(job.folder).command
    commands = without_secrets(history.read_text(encoding="utf-8")) if history.is_file() else ""
    readme = readme_text(job.repository, metadata, [found.content for found in scores], job.license, commands)
    if job.readme:
        write_text(job.readme, readme)
        print(f"README written to {job.readme}; nothing was pushed")
        return 0
    address = push_network(job.repository, job.checkpoint, metadata, readme, scores, job.private, job.revision)
    splits = ", ".join(f"'{found.content['split']}'" for found in scores) or "no split"
    print(f"{metadata.name}, step {metadata.step}, with scores on {splits}, pushed: {address}")
    return 0


def push_job(argv: Sequence[str] | None = None) -> PushJob:
    """Read the command line. Raises UserError where it makes no sense."""
    parser = new_parser("push", "push --run RUN --repo OWNER/NAME --license apache-2.0", _DETAILS)
    add_run_arguments(parser, settings=False)
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository; created if there is none")
    parser.add_argument("--private", action="store_true", help="if it is created, only its owner sees it")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; created if there is none (default: main)")
    license_help = "id of the license on the Hub, such as apache-2.0 (default: left open)"
    parser.add_argument("--license", metavar="ID", help=license_help)
    parser.add_argument("--no-scores", action="store_true", help="push without evaluations")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write the README to FILE, and push nothing")
    arguments = parse(parser, argv)
    repository, _ = parse_repository(arguments.repo, "--repo")
    if arguments.revision is not None:
        require_revision(arguments.revision)
    if arguments.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", arguments.license):
        message = f"--license is '{arguments.license}', expected an id such as apache-2.0 or cc-by-4.0; fix it"
        raise UserError("MSA-HUB-001", message, setting="--license")
    run_config(arguments, ())
    checkpoint = find_checkpoint(arguments)
    return PushJob(
        checkpoint,
        arguments.run or checkpoint.parent,
        repository,
        arguments.private,
        arguments.revision,
        arguments.license,
        not arguments.no_scores,
        arguments.readme,
    )
