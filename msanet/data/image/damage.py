"""Damage that decoders pass over: what they say on stderr, checksums of PNG, and holes of zeros in JPEG."""

import os
import re
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DECODER_LINE = re.compile(
    r"Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid SOS|Unknown Adobe|Warning: unknown JFIF"
    r"|Unsupported marker|libpng (error|warning)|PNG (error|warning)"
    r"|TIFF\w*: |\w+(Decode|Lib|Fax\w*|State): |tempfile\.tif: |TIFF directory"
)
_DAMAGE = re.compile(r"Corrupt JPEG data(?!: bad ICC)|Premature end of JPEG|Inconsistent progression")
"""What libjpeg calls a warning, and what leaves wrong pixels. Its other warnings are of headers, such as an unknown JFIF."""
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends the entropy-coded data of a scan: a marker, but for restarts and stuffed zeros."""
_HOLE = bytes(32)
_ZEROS = re.compile(rb"\0{64,}")
_FRAMES = {0xC0: "sequential", 0xC1: "sequential", 0xC2: "progressive"}
_lock = threading.Lock()


@contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Catch what C libraries write to stderr in the block; the list is filled at its end.

    OpenCV's libjpeg has no other way to say that it met damage: it prints its first warning and goes on. Lines of
    anyone else, such as another thread's, are passed on.
    """
    lines: list[str] = []
    with _lock, open(os.memfd_create("decoder"), "r+b") as file:
        try:
            saved = os.dup(2)
        except OSError:  # stderr is closed
            saved = None
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            if saved is None:
                os.close(2)
            else:
                os.dup2(saved, 2)
                os.close(saved)
            text = os.pread(file.fileno(), 2**16, 0).decode(errors="replace") if os.fstat(file.fileno()).st_size else ""
            for line in text.splitlines(keepends=True):
                if _DECODER_LINE.search(line):
                    lines.append(line.strip())
                elif saved is not None:
                    os.write(2, line.encode())


def find_damage(data: bytes, messages: list[str]) -> str | None:
    """What is wrong with an encoded image that was decoded with these `decoder_messages`; None if nothing is."""
    if data[:2] == b"\xff\xd8":
        said = next((line for line in messages if _DAMAGE.match(line)), None)
        if said and not _is_padding(data, said):
            return said.removeprefix("Corrupt JPEG data: ")
        hole = _jpeg_hole(data)
        return None if hole is None else f"zeros at byte {hole} where compressed pixels should be"
    if data.startswith(PNG_SIGNATURE):
        return png_damage(data)
    if data[:2] in (b"II", b"MM"):
        return next((line for line in messages if "arning" not in line or "Corrupt JPEG" in line), None)
    return _webp_hole(data) if data[8:12] == b"WEBP" else None


def deflate_damage(data: bytes, offsets: Iterable[int], lengths: Iterable[int]) -> str | None:
    """What is wrong with a part of a deflated TIFF: libtiff stops where it has enough pixels, before the checksum."""
    for offset, length in zip(offsets, lengths, strict=False):
        try:
            zlib.decompress(memoryview(data)[offset : offset + length])
        except zlib.error as error:
            return f"its part at byte {offset}: {error}"
    return None


def jpeg_parts_damage(data: bytes, tables: bytes, offsets: Iterable[int], lengths: Iterable[int]) -> str | None:
    """What is wrong with a JPEG in a TIFF, whose decoders are silent. tables: the field JPEGTables, or nothing."""
    for offset, length in zip(offsets, lengths, strict=False):
        part = data[offset : offset + length]
        stream = tables[:-2] + part[2:] if tables else part
        with decoder_messages() as said:
            is_decoded = (
                bool(stream) and cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_UNCHANGED) is not None
            )
        damage = find_damage(stream, said) if is_decoded else "a part that is not a JPEG"
        if damage:
            return f"its part at byte {offset}: {damage}"
    return None


def png_damage(data: bytes) -> str | None:
    """What is wrong with a PNG's chunks up to its end, checksums included; what follows its end does not matter."""
    try:
        for kind, start, length in png_chunks(data):
            found = zlib.crc32(memoryview(data)[start - 4 : start + length])
            if found != struct.unpack_from(">I", data, start + length)[0]:
                return f"wrong checksum of its part {kind.decode('ascii', 'replace')!r} at byte {start - 8}"
            if kind == b"IEND":
                return None
    except struct.error:
        pass
    return "its end is missing"


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, where its content begins, length of its content) of each chunk. struct.error where the data ends inside one."""
    place = len(PNG_SIGNATURE)
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, place + 8, length
        place += 12 + length


def _is_padding(data: bytes, said: str) -> bool:
    """Whether what libjpeg found before the end is zeros: some cameras fill up the last block."""
    match = _EXTRANEOUS.match(said)
    end = data.rfind(b"\xff\xd9")
    return match is not None and not data[max(0, end - int(match[1])) : end].strip(b"\0")


def _jpeg_hole(data: bytes) -> int | None:
    """Where a run of zero bytes lies that no encoder writes; None if there is none.

    Zero bits are the shortest codes, so decoders read a lost block of a disk as pixels. Where the shortest code of the
    AC coefficients says anything but "all further ones are zero", a long run of it is no picture. Elsewhere it may be
    a flat area, and if it is not, the number of blocks is wrong by so much that libjpeg notices.
    """
    if _HOLE not in data:
        return None
    tables: dict[int, int] = {}  # AC table -> symbol of its code of zeros
    frame, place = "", 2
    while 0 <= (place := data.find(b"\xff", place)) < len(data) - 4:
        marker, (length,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        content = data[place + 4 : place + 2 + length]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            place += 1
            continue
        if marker == 0xD9:
            return None
        place += 2 + length
        frame = _FRAMES.get(marker, frame)
        if marker == 0xDB and b"\0" in content[1:65]:  # division by zero
            return place
        if marker == 0xC4:
            tables |= _shortest_codes(content)
        elif marker == 0xDA:
            match = _MARKER.search(data, place)
            end = match.start() if match else len(data)
            hole = data.find(_HOLE, place, end)
            if hole >= 0 and _shows_hole(content, tables, frame):
                return hole
            place = end
    return None


def _webp_hole(data: bytes) -> str | None:
    """A run of zeros that is too long for a WebP of this size: flat areas take at least a byte for 500 pixels."""
    longest = max((len(run) for run in _ZEROS.findall(data)), default=0)
    if b"VP8L" in data[12:64]:
        return f"{longest} zeros where compressed pixels should be" if longest >= 64 else None
    place = data.find(b"\x9d\x01\x2a")  # the start code of a key frame, before its size
    if longest < 64 or place < 0:
        return None
    width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data.ljust(place + 7), place + 3))
    return f"{longest} zeros where compressed pixels should be" if longest * 500 > width * height else None


def _shortest_codes(content: bytes) -> dict[int, int]:
    """{AC table: the symbol whose code is zeros only}, which is the first one, of a DHT segment."""
    found = {}
    while len(content) > 17:
        kind, number, count = content[0] >> 4, content[0] & 15, sum(content[1:17])
        if kind == 1:
            found[number] = content[17]
        content = content[17 + count :]
    return found


def _shows_hole(scan: bytes, tables: dict[int, int], frame: str) -> bool:
    """Whether zeros in this scan (the content of its SOS segment) stand for coefficients that are not zero."""
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count:
        return False
    if frame == "" or (frame == "progressive" and scan[1 + 2 * count] == 0):  # bits of DC coefficients: zeros are usual
        return False
    used = {scan[2 + 2 * component] & 15 for component in range(count)}
    return any(tables.get(table, 0) & 15 for table in used)
