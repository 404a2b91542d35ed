"""A small network behind the demo page, and a visitor of it."""

import base64
import io
import zlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from werkzeug.test import TestResponse

from msanet.config import EvaluationConfig
from msanet.demo.app import create_app
from msanet.demo.segmenter import Limits, Segmenter
from support.metadata import metadata

DEFAULT = EvaluationConfig()


def segmenter(
    name: str, limits: Limits | None = None, settings: EvaluationConfig = DEFAULT, **options: Any
) -> Segmenter:
    torch.manual_seed(0)
    own = metadata(name, width=0.05, **options)
    return Segmenter(own.build().eval(), own, settings, limits or Limits())


class Visitor:
    """A browser on the page, as far as the server sees it."""

    def __init__(self, served: Segmenter) -> None:
        self.client = create_app(served, "127.0.0.1").test_client()

    def post(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> TestResponse:
        own = {"Host": "127.0.0.1:7860", "Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}
        return self.client.post(path, headers={**own, **(headers or {})}, **body)

    def segment(self, data: bytes) -> dict[str, Any]:
        answer = self.post("/segment", data=data)
        assert answer.status_code == 200, answer.json
        return answer.get_json()

    def maps(self, key: str, row: int = 0, column: int = 0) -> dict[str, np.ndarray]:
        answer = self.post("/maps", json={"key": key, "row": row, "column": column})
        assert answer.status_code == 200, answer.json
        return {name: unpacked(packed) for name, packed in answer.get_json().items()}


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    return values.reshape(packed["height"], packed["width"])


def pixels(height: int = 37, width: int = 53) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def encoded(image_HWC: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, kind, **options)
    return buffer.getvalue()
