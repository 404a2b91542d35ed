"""`python -m sharding NAME --source DIR --out DIR`: turn a dataset into WebDataset shards; verify and inspect them."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from msanet.data.image.codec import CODECS
from msanet.errors import UserError, nearest, user_errors
from sharding.plan import DEFAULT_SHARD_BYTES, parse_bytes
from sharding.readers import READERS, Reader, open_source
from sharding.writer import Packed, PackOptions, pack

TOOLS = {
    "synthetic": ("sharding.synthetic", "draw street scenes in the layout of Cityscapes (no download needed)"),
    "verify": ("sharding.verify", "check all of a finished dataset: files, hashes, images, labels and counts"),
    "inspect": ("sharding.inspection", "show what a finished dataset holds, as tables and as a sheet of samples"),
}
"""Name -> module with `add_arguments(parser)` and `run(args)`, imported when asked for, and its summary."""
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code.

    Raises SystemExit(2) after one sentence on stderr where the input is at fault.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with user_errors():
        args = _parse(words)
        try:
            return _tool(args.name).run(args) if args.name in TOOLS else _pack(READERS[args.name], args)
        except KeyboardInterrupt:
            again = "starts anew" if args.name in TOOLS else "continues where it stopped"
            print(f"interrupted; the same command {again}", file=sys.stderr)
            return EXIT_INTERRUPTED


def _pack(reader: Reader, args: argparse.Namespace) -> int:
    tree = open_source(reader, args.source)
    found = reader.read(tree, args)
    packed = pack(found, tree, args.out, PackOptions(args.codec, args.shard_bytes, args.workers))
    print(_summary(packed))
    return 0


def _tool(name: str) -> ModuleType:
    return importlib.import_module(TOOLS[name][0])


def _summary(packed: Packed) -> str:
    """Table of splits, and what this run did."""
    lines = [f"{'split':<12}{'samples':>9}{'shards':>8}{'MB':>9}{'labelled':>10}"]
    for name, split in packed.manifest.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 1e6
        pixels = sum(split.histogram)
        share = pixels / max(1, pixels + split.ignored)
        lines.append(f"{name:<12}{split.samples:>9}{len(split.shards):>8}{size:>9.1f}{share:>10.1%}")
    if packed.written == 0:
        lines.append(f"{packed.folder} is already whole: nothing to do")
    else:
        kept = f" ({packed.kept} of its shards were finished before)" if packed.kept else ""
        lines.append(f"{packed.folder} is whole{kept}")
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are our one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parse(words: list[str]) -> argparse.Namespace:
    names = [*READERS, *TOOLS]
    if words and not words[0].startswith("-") and words[0] not in names:
        raise UserError(f"unknown dataset or command '{words[0]}'; {nearest(words[0], names)}")
    parser = _Parser(
        "python -m sharding", description="Turn a dataset into WebDataset shards; verify and inspect them."
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for reader in READERS.values():
        command = commands.add_parser(reader.name, help=reader.summary, description=reader.summary)
        _add_common(command, reader)
        reader.add_options(command)
    for name, (_, summary) in TOOLS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if words[:1] == [name]:
            _tool(name).add_arguments(command)
    return parser.parse_args(words)


def _add_common(parser: argparse.ArgumentParser, reader: Reader) -> None:
    source = f"folder or zip files with {reader.layout.replace('%', '%%')}"
    parser.add_argument("--source", type=Path, nargs="+", required=True, metavar="PATH", help=source)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; new or empty, or the same dataset")
    parser.add_argument(
        "--splits", nargs="+", metavar="SPLIT", help="splits to pack (default: the dataset's usual ones)"
    )
    codecs = f"how images are stored: {', '.join(CODECS)} (default {CODECS[0]})"
    parser.add_argument("--codec", type=_codec, default=CODECS[0], help=codecs)
    size = f"source bytes per shard, such as 64MB or 1GB (default {DEFAULT_SHARD_BYTES})"
    parser.add_argument("--shard-bytes", type=_bytes, default=DEFAULT_SHARD_BYTES, metavar="SIZE", help=size)
    parser.add_argument(
        "--workers", type=_workers, default=_cpus(), help="processes to write with (default: one per CPU)"
    )


# argparse shows the words of ArgumentTypeError, but replaces those of any other ValueError by its own.
def _codec(text: str) -> str:
    if text not in CODECS:
        raise argparse.ArgumentTypeError(f"unknown codec '{text}'; {nearest(text, list(CODECS))}")
    return text


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _workers(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number of processes of 1 or more; correct it")
    return int(text)


def _cpus() -> int:
    """CPUs that this process may use, fewer than the machine has inside a container or a Slurm job."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    sys.exit(main())
