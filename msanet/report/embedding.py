"""Images as text inside a page."""

import base64
import io

import cv2
import numpy as np
from PIL import Image

from msanet.report.palette import UInt8, check_image

_JPEG_QUALITY = 85


def data_uri(image: UInt8) -> str:
    """An image, (H, W, 3) uint8 RGB, as a data: address: an indexed PNG up to 256 colors (exact), else a JPEG."""
    check_image(image, image.shape[:2])
    packed_HW = image.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colors_C, index_HW = np.unique(packed_HW, return_inverse=True)
    if len(colors_C) > 256:
        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        return _address("jpeg", cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes())
    indexed = Image.fromarray(index_HW.reshape(packed_HW.shape).astype(np.uint8), "P")
    indexed.putpalette(colors_C.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes())
    buffer = io.BytesIO()
    indexed.save(buffer, format="PNG", optimize=True)
    return _address("png", buffer.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
