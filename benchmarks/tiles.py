"""Which encoder to write tiles with: size against PNG, and time to decode against the one that was chosen.

    python benchmarks/tiles.py --source FOLDER_OF_IMAGES [--json FILE]

All are deflate, so that every TIFF reader reads them, and all are decoded by libdeflate, as `msanet.data.image.tiles` does.
"""

import argparse
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402

from msanet.data.image.tiles import IMAGE_TILE  # noqa: E402

CHOSEN = "zlib-ng, level 6"
Encoder = Callable[[bytes], bytes]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of PNG images, searched in depth")
    parser.add_argument("--images", type=int, default=4, help="how many of them (default 4)")
    parser.add_argument("--rounds", type=int, default=7, help="turns (default 7)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    paths = sorted(args.source.rglob("*.png"))[: args.images]
    images = [image for path in paths if (image := cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)) is not None]
    pixels, png = sum(image.size // 3 for image in images), sum(path.stat().st_size for path in paths)
    tiles = [tile for image in images for tile in predicted_tiles(image)]
    encoded = {name: [encode(tile) for tile in tiles] for name, encode in encoders().items()}
    rates = in_turns({name: decoder(parts, pixels) for name, parts in encoded.items()}, args.rounds)
    rows = [
        (
            name,
            sum(map(len, parts)) / png,
            statistics.median(rates[name]),
            1 / median_ratio(rates[name], rates[CHOSEN]),
        )
        for name, parts in encoded.items()
    ]
    print_table(("encoder", "size / PNG", "megapixels/s", "time / chosen"), rows)
    write_json(args.json, {"rows": rows})
    return 0


def predicted_tiles(image_HWC: np.ndarray) -> list[bytes]:
    """Full tiles of an image after the horizontal predictor."""
    (tile_h, tile_w), (height, width) = IMAGE_TILE, image_HWC.shape[:2]
    corners = [(y, x) for y in range(0, height - tile_h + 1, tile_h) for x in range(0, width - tile_w + 1, tile_w)]
    tiles = (np.ascontiguousarray(image_HWC[y : y + tile_h, x : x + tile_w]) for y, x in corners)
    return [imagecodecs.delta_encode(tile, axis=1).tobytes() for tile in tiles]


def encoders() -> dict[str, Encoder]:
    """Name -> bytes of a tile to a zlib stream."""

    def huffman(tile: bytes) -> bytes:
        coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
        return coder.compress(tile) + coder.flush()

    def zlib_ng(level: int) -> Encoder:
        return lambda tile: imagecodecs.zlibng_encode(tile, level=level)

    def libdeflate(level: int) -> Encoder:
        return lambda tile: imagecodecs.deflate_encode(tile, level=level, raw=False)

    return {
        **{f"zlib-ng, level {level}": zlib_ng(level) for level in (2, 4, 6, 7, 9)},
        **{f"libdeflate, level {level}": libdeflate(level) for level in (1, 6, 10)},
        "zlib, level 6": lambda tile: zlib.compress(tile, 6),
        "zlib, Huffman coding alone": huffman,
    }


def decoder(parts: list[bytes], pixels: int) -> Callable[[], float]:
    """Megapixels per second of decoding all of `parts`."""
    out = np.empty(IMAGE_TILE[0] * IMAGE_TILE[1] * 3, np.uint8)

    def turn() -> float:
        start = time.perf_counter()
        for part in parts:
            imagecodecs.deflate_decode(part, raw=False, out=out)
        return pixels / 1e6 / (time.perf_counter() - start)

    return turn


if __name__ == "__main__":
    sys.exit(main())
