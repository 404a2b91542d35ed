"""Codes of errors in checkpoint."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
