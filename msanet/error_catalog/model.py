"""Codes of errors in model."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
