"""What a file is that is not the file of weights it was taken for: often a page that a download link led to."""

_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body")


def describe_start(start: bytes) -> str:
    """`is a web page (HTML), ...`, for the first bytes of a file, or `is of an unknown kind`."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        return "is empty"
    if start.startswith(b"version https"):
        return "is a pointer of Git LFS, fetch the file itself"
    if text.startswith(_PAGES):
        return "is a web page (HTML), as from a link that leads to a page and not to the file; download the file itself"
    if text.startswith((b"<?xml", b"<error")):
        return "is an XML document, as from a server that reports an error; download the file again"
    if text.startswith((b'{"', b"{\n")):
        return "is JSON text, as from a server that reports an error; download the file again"
    return "is of an unknown kind"
