"""Codes of errors in cli."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
