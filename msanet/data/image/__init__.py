"""Encoded images: codecs, tiles, crops and color jitter."""
