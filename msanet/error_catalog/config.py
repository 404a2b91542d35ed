"""Codes of errors in config."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
