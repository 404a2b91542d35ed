"""`msanet pack NAME`: a dataset on disk becomes WebDataset shards."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from msanet.api.packing import pack_dataset
from msanet.cli.commands import COMMANDS
from msanet.cli.parser import Parser, at_least, new_parser, parse
from msanet.data.image.codec import CODECS
from msanet.data.manifest import BAD_SAMPLES_NAME
from msanet.errors import UserError, nearest
from sharding.bad_samples import ALWAYS_ALLOWED, DEFAULT_MAX_BAD_FRACTION
from sharding.bands import ALL
from sharding.plan import DEFAULT_SHARD_BYTES, parse_bytes
from sharding.readers import READERS, Reader, find_reader, installed_readers, is_reader_name
from sharding.readers.label_scheme import add_scheme_option
from sharding.readers.splitting import add_split_options
from sharding.writer import Packed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    name, *words = [*(argv or ()), ""]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    reader = reader_named(name)
    print(_summary(pack_dataset(reader, parse(parser_of(reader, name), words[:-1]))))
    return 0


def reader_named(name: str) -> Reader:
    """The reader of a dataset; see `find_reader`. Raises UserError, with what there is, for a word that names none."""
    if not is_reader_name(name):
        found = f"unknown dataset '{name}'" if name else "no dataset is given"
        raise UserError("MSA-CLI-002", f"{found}; {nearest(name, [*READERS, *installed_readers()])}")
    return find_reader(name)


def _help() -> str:
    width = max(map(len, READERS))
    datasets = [f"  {name:<{width}}  {reader.summary}" for name, reader in READERS.items()]
    datasets += [
        f"  {name:<{width}}  reader of an installed package ({value})" for name, value in installed_readers().items()
    ]
    title = f"usage: msanet pack DATASET --source PATH --out SHARDS [options]\n\n{COMMANDS['pack'].capitalize()}.\n"
    own = "A dataset of your own: path/to/reader.py:READER or package.module:READER instead of a name (examples/own_reader.py).\n"
    example = (
        "Example:\n  msanet pack camvid --source CAMVID --out SHARDS\n"
        "  msanet pack labelme --source ANNOTATED --out SHARDS --random-split val=0.2 --group-by 'video\\d+'\n"
        "  msanet pack cityscapes --source CITYSCAPES --out SHARDS --label-scheme street.yaml\n"
        "  msanet pack folder --source SATELLITE --out SHARDS --classes classes.yaml --bands all\n"
        "  msanet pack examples/own_reader.py:READER --source FIELDS --out SHARDS\n"
    )
    return "\n".join(
        [title, "datasets:", *datasets, "", own, example, "Options of a dataset: msanet pack DATASET --help"]
    )


def parser_of(reader: Reader, name: str) -> Parser:
    """The options of `msanet pack NAME`."""
    parser = new_parser("pack", f"pack {name} --source DIR --out SHARDS", name=name)
    parser.description = f"{reader.summary}. The same command again continues where it stopped."
    source = f"folder or zip files with {reader.layout.replace('%', '%%')}"
    parser.add_argument("--source", type=Path, nargs="+", required=True, metavar="PATH", help=source)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; new or empty, or the same dataset")
    splits = "splits to pack (default: the dataset's usual ones)"
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help=splits)
    codecs = f"how images are stored: {', '.join(CODECS)} (default {CODECS[0]})"
    parser.add_argument("--codec", type=_codec, default=CODECS[0], help=codecs)
    bands = f"keep the bands of images as they are: {ALL}, or numbers from 1 such as 1-4,8 (default: 8-bit RGB)"
    parser.add_argument("--bands", metavar="BANDS", help=bands)
    size = f"source bytes per shard, such as 64MB or 1GB (default {DEFAULT_SHARD_BYTES})"
    parser.add_argument("--shard-bytes", type=_bytes, default=DEFAULT_SHARD_BYTES, metavar="SIZE", help=size)
    workers = "processes to write with (default: one per CPU)"
    cpus = len(os.sched_getaffinity(0))  # fewer than the machine has inside a container or a Slurm job
    parser.add_argument("--workers", type=at_least(1), default=cpus, help=workers)
    skip = f"pack without samples that cannot be read, and list them in {BAD_SAMPLES_NAME} next to the shards"
    parser.add_argument("--skip-bad", action="store_true", help=skip)
    most = f"with --skip-bad: most of them (default {DEFAULT_MAX_BAD_FRACTION:g}, and always up to {ALWAYS_ALLOWED} samples)"
    parser.add_argument("--max-bad-fraction", type=float, metavar="SHARE", help=most)
    add_scheme_option(parser)
    add_split_options(parser)
    reader.add_options(parser)
    return parser


def _summary(packed: Packed) -> str:
    """Table of splits, and what this run did."""
    lines = [f"{'split':<12}{'samples':>9}{'shards':>8}{'MB':>9}{'labeled':>10}"]
    for name, split in packed.manifest.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 1e6
        pixels = sum(split.histogram)
        share = pixels / max(1, pixels + split.ignored)
        lines.append(f"{name:<12}{split.samples:>9}{len(split.shards):>8}{size:>9.1f}{share:>10.1%}")
    if packed.written == 0:
        lines.append(f"{packed.folder} is already complete: nothing to do")
    else:
        kept = f" ({packed.kept} of its shards were finished before)" if packed.kept else ""
        lines.append(f"{packed.folder} is complete{kept}")
    return "\n".join(lines)


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
