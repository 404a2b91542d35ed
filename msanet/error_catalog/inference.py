"""Codes of errors in inference."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
