"""ONNX files: how a network becomes one, and how one becomes int8 by post-training static quantization."""

import logging
import operator
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msanet.inference.backends import require_package
from msanet.inference.export_graph import Size, exported_graph
from msanet.models.io import METADATA, ModelMetadata

_QUANTIZED = [
    *("Conv", "ConvTranspose", "Gemm", "MatMul"),
    *("Add", "Relu", "Clip", "Concat", "Resize", "MaxPool", "AveragePool", "GlobalAveragePool"),
]
"""Products with weights, and what stands between them, so that there is no way back to float32 in between."""
_OPSET = 18  # the exporter's own: others are converted from it


def write_onnx(path: Path, network: nn.Module, metadata: ModelMetadata, size: Size) -> None:
    """Write the deployed network, with its metadata in `metadata_props`."""
    require_package("onnxruntime", "export")
    ir = require_package("onnxscript", "export").ir
    with without_warnings():
        program = torch.onnx.export(
            exported_graph(network, metadata, size),
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            input_names=["image"],
            output_names=["logits", "labels"],
            custom_translation_table={operator.floordiv: _floor_divide},
        )
    assert program is not None
    graph = program.model.graph
    height, width = size or ("height", "width")
    graph.inputs[0].shape = ir.Shape(["batch", metadata.image.channels, height, width])
    graph.outputs[0].shape = ir.Shape(["batch", len(metadata.classes), height, width])
    graph.outputs[1].shape = ir.Shape(["batch", height, width])
    program.model.metadata_props[METADATA] = metadata.model_dump_json()
    program.save(path, external_data=False)


def _floor_divide(number: Any, divisor: Any) -> Any:
    """ONNX divides integers towards zero, and its remainder has the divisor's sign."""
    op = getattr(require_package("onnxscript", "export"), f"opset{_OPSET}")
    return op.Div(op.Sub(number, op.Mod(number, divisor)), divisor)


def quantize_onnx(source: Path, target: Path, images: Iterable[Tensor]) -> None:
    """Write an ONNX file in int8: weights by output channel, activations by the ranges they have on `images`.

    Post-training static quantization as QuantizeLinear and DequantizeLinear (Jacob et al. 2018), which ONNX Runtime and
    OpenVINO execute in integers. The normalization and products of two activations (attention) stay in float32.

    Args:
        source: In float32.
        target: The file to write.
        images: Gray values (N, 3, H, W) float32, as the file takes them: those that it will be used on.

    Raises:
        UserError: A package is missing, or a range is not finite.
    """
    quantization = require_package("onnxruntime.quantization", "export")
    batches = iter(images)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {"image": batch.numpy()}

    with without_warnings():
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=_QUANTIZED,
            extra_options={"MatMulConstBOnly": True},
        )


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hide the exporter's own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
