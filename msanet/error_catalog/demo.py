"""Codes of errors in demo."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
