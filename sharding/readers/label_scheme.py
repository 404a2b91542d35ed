"""--label-scheme: other classes of a dataset, for any reader."""

import argparse
from dataclasses import replace
from pathlib import Path

from msanet.data.label_scheme import SCHEME_EXAMPLE, SCHEME_OPTION, LabelScheme, train_ids_by_name
from msanet.datasets import DatasetSpec, ignore_index
from sharding.readers.mask_reader import reader_of
from sharding.readers.reader import DatasetListing


def add_scheme_option(parser: argparse.ArgumentParser) -> None:
    """--label-scheme, for datasets of all readers."""
    parser.add_argument(
        SCHEME_OPTION,
        type=Path,
        metavar="FILE",
        help=f"YAML or JSON that joins, renames or leaves out classes of the dataset by name, such as: {SCHEME_EXAMPLE}",
    )


def apply_scheme(found: DatasetListing, scheme: LabelScheme) -> DatasetListing:
    """The same samples with the classes of the scheme. Raises UserError where it does not fit the dataset's classes."""
    place = train_ids_by_name(scheme, found.spec.name, found.spec.classes)
    ignored = ignore_index(len(scheme.classes))
    spec = DatasetSpec(
        name=scheme.name,
        classes=tuple(row.name for row in scheme.classes),
        palette=tuple(
            row.color or found.spec.palette[found.spec.classes.index(row.members[0])] for row in scheme.classes
        ),
        train_ids={
            value: ignored if train_id == found.spec.ignore_index else place.get(found.spec.classes[train_id], ignored)
            for value, train_id in found.spec.train_ids.items()
        },
    )
    # What colors of masks mean is said by the dataset's own classes.
    return replace(found, spec=spec, decode=found.decode or reader_of(found.spec))
