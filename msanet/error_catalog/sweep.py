"""Codes of errors in sweep."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
