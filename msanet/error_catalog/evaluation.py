"""Codes of errors in evaluation."""

from msanet.error_catalog.entry import Entry

ENTRIES: dict[str, Entry] = {}
