"""Codes of errors in distributed."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
