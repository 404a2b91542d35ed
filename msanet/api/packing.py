"""`msanet.pack`: a dataset on disk becomes shards."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msanet.api.arguments import PathLike, words_of
from msanet.api.process_state import api_call
from msanet.data.label_scheme import read_scheme
from msanet.errors import UserError
from sharding.readers import Reader, open_source
from sharding.readers.contents import left_out
from sharding.readers.label_scheme import apply_scheme
from sharding.readers.splitting import random_split
from sharding.writer import Packed, PackOptions
from sharding.writer import pack as write

logger = logging.getLogger(__name__)


def pack(dataset: str, source: PathLike | Sequence[PathLike], out: PathLike, **options: Any) -> Packed:
    """Pack a dataset into WebDataset shards. The same call again continues where it stopped.

    Args:
        dataset: Its name: `camvid`, `cityscapes`, `voc`, `coco`, `folder` and others that `msanet pack --help` lists, or a
            reader of your own: `path/to/file.py:NAME`, `package.module:NAME`.
        source: Folder or zip files of the dataset, in the layout that `msanet pack NAME --help` shows.
        out: Folder for the shards; new or empty, or of the same dataset.
        options: Of `msanet pack NAME --help`, with underscores: `splits=["train"]`, `workers=2`, `skip_bad=True`.

    Returns:
        What was packed: `folder`, and `manifest` with classes and splits.

    Raises:
        UserError: Unknown dataset or option, another layout, or bad samples.

    Example:
        >>> msanet.pack("folder", "photos", "shards", classes="classes.yaml").manifest.classes
    """
    from msanet.cli.pack import parser_of, reader_named

    sources = [source] if isinstance(source, str | Path) else list(source)
    reader = reader_named(dataset)
    arguments = parser_of(reader, dataset).parse_args(words_of({"source": sources, "out": out, **options}))
    with api_call():
        return pack_dataset(reader, arguments)


def pack_dataset(reader: Reader, args: argparse.Namespace) -> Packed:
    """Pack what the options of the command say. Raises UserError."""
    split, scheme = random_split(args), read_scheme(args.label_scheme) if args.label_scheme else None
    tree = open_source(reader, args.source)
    found = reader.read(tree, args)
    reader.check_counts(found)
    if unused := left_out(found.tree or tree, found):
        logger.info(f"not packed: {unused}")
    found = split.apply(found) if split else found
    found = apply_scheme(found, scheme) if scheme else found
    if args.max_bad_fraction is not None and not (args.skip_bad and 0 <= args.max_bad_fraction < 1):
        message = f"--max-bad-fraction is {args.max_bad_fraction:g}, expected 0 to below 1, with --skip-bad; fix it"
        raise UserError("MSA-CLI-006", message, setting="--max-bad-fraction")
    options = PackOptions(args.codec, args.shard_bytes, args.workers, args.skip_bad, args.max_bad_fraction, args.bands)
    return write(found, tree, args.out, options)
