"""Codes of errors in data."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
