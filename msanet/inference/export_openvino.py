"""OpenVINO files: an .xml and its .bin, converted from an ONNX file."""

from pathlib import Path

from msanet.inference.backends import openvino_core, require_package
from msanet.models.io import METADATA, ModelMetadata

WEIGHTS_ENDING = ".bin"


def convert_to_openvino(source: Path, target: Path, metadata: ModelMetadata) -> None:
    """Write `target`, whose name ends in .xml, and its .bin from an ONNX file; the metadata is in the `rt_info`.

    `openvino.convert_model` would do the same, and report its use to its maker.
    """
    openvino = require_package("openvino", "openvino")
    model = openvino_core().read_model(source)
    model.set_rt_info(metadata.model_dump_json(), [METADATA])
    openvino.serialize(model, str(target), str(target.with_suffix(WEIGHTS_ENDING)))
