"""Codes of errors in pack."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
