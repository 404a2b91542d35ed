"""`msanet pull`: a network that was pushed to the Hugging Face Hub, into a folder that every command takes."""

from collections.abc import Sequence
from pathlib import Path

from msanet.cli.parser import new_parser, parse
from msanet.hub.client import parse_repository
from msanet.hub.pull import pull_network

_DETAILS = """\
The folder is for --checkpoint of evaluate, predict, export and serve; it is complete or absent, and an interrupted pull goes
on. The network's code is msanet's own: nothing in a repository is run. The token, for private repositories, is HF_TOKEN, or
that of `hf auth login`; HF_ENDPOINT is another Hub. Needs `pip install 'msanet[hub]'`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("pull", "pull OWNER/NAME --out model && msanet predict --checkpoint model ...", _DETAILS)
    parser.add_argument("repository", metavar="OWNER/NAME[@REVISION]", help="repository, and branch, tag or commit")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder to write")
    arguments = parse(parser, argv)
    repository, revision = parse_repository(arguments.repository, "REPOSITORY", revision=True)
    metadata, commit = pull_network(repository, revision, arguments.out)
    about = f"{metadata.name} with {len(metadata.classes)} classes of {metadata.dataset}, step {metadata.step}"
    print(f"{about}, commit {commit[:12]}, written to {arguments.out}")
    return 0
