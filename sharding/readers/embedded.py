"""Images inside of annotation files, seen as files of a source."""

import base64
import json
from dataclasses import dataclass

from msanet.errors import UserError
from sharding.tree import Tree

_MARK = "//image."
"""Between the file and the ending of the image in it: no path of a source holds two slashes."""
_FORMATS = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8", "jpg"),
    (b"BM", "bmp"),
    (b"RIFF", "webp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


def image_ending(data: bytes) -> str:
    """The ending of an image's file, by its first bytes; `bin` where they are of none that we know."""
    return next((ending for start, ending in _FORMATS if data.startswith(start)), "bin")


def embedded_name(path: str, start: bytes) -> str:
    """The name of the image that the JSON file `path` has as imageData. start: its first bytes."""
    return f"{path}{_MARK}{image_ending(start)}"


@dataclass(frozen=True)
class EmbeddedImages:
    """The tree `main`, and in it the images of embedded_name, base64 in the field imageData of a JSON file."""

    main: Tree

    def folders(self, name: str) -> list[str]:
        return self.main.folders(name)

    def files(self, name: str) -> list[str]:
        return self.main.files(name)

    def size(self, name: str) -> int:
        return self.main.size(name.partition(_MARK)[0])

    def stamp(self, name: str) -> int:
        return self.main.stamp(name.partition(_MARK)[0])

    def read(self, name: str) -> bytes:
        path, mark, _ = name.partition(_MARK)
        data = self.main.read(path)
        if not mark:
            return data
        try:
            return base64.b64decode(json.loads(data)["imageData"], validate=True)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                "MSA-PACK-753",
                f"the imageData of '{self.main.show(path)}' cannot be read ({error}), expected an image as base64; fix it, or "
                "export it again",
            ) from error

    def below(self, name: str) -> "EmbeddedImages":
        return EmbeddedImages(self.main.below(name))

    def show(self, name: str) -> str:
        path, mark, _ = name.partition(_MARK)
        return f"{self.main.show(path)} (imageData)" if mark else self.main.show(path)
