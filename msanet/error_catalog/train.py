"""Codes of errors in train."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
