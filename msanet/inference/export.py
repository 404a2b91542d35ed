"""A trained network as one file: an ONNX or torch.export graph that does not need msanet, or weights.

Before a file gets its name it is run, and its output must equal the network's.
"""

import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as tracing

from msanet.errors import UserError
from msanet.files import atomic_file
from msanet.models.external import AdaptedNetwork
from msanet.models.io import METADATA, ModelMetadata, load_network, save_network
from msanet.telemetry import disable_telemetry

TOLERANCE = 1e-3
"""The largest difference of logits between a file and the network, as a share of the largest logit."""

_OPSET = 18  # the exporter's own: others are converted from it
_CHECKED = ((1, (64, 96)), (2, (97, 45)))  # batch, (height, width): a multiple of every stride, and of none

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
Size = tuple[int, int] | None
"""(height, width) of all images, or None where a file takes any."""


class Deployed(nn.Module):
    """A network in evaluation mode as it is used: images in, labels out; the normalization is inside.

    forward: RGB images (N, 3, H, W) float32 in gray values from 0 to 255 -> logits (N, K, H, W) float32, and labels
    (N, H, W) uint8, the train id of the likeliest class.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, metadata: ModelMetadata) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(metadata.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(metadata.std).view(1, 3, 1, 1))
        self.eval()

    def forward(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network((image_NCHW - self.mean) / self.std)
        return logits, logits.argmax(dim=1).to(torch.uint8)


class Format(NamedTuple):
    """A kind of file. write: network, metadata and size into a path. open: the file as something to run."""

    ending: str
    write: Callable[[Path, nn.Module, ModelMetadata, Size], None]
    open: Callable[[Path], Run]


@torch.no_grad()
def export_network(path: Path, target: str, network: nn.Module, metadata: ModelMetadata, size: Size = None) -> None:
    """Write `network`, which is on the CPU, to `path` in the format `target` of FORMATS; `path` is complete or absent.

    size: see `Size`; the batch is free. Raises UserError if the file's output differs or a package is missing.
    """
    if isinstance(network, AdaptedNetwork) and network.layout.fixed and size != network.layout.size:
        height, width = network.layout.size
        message = f"{metadata.name} takes images of {height}x{width} only; set --size {height} {width}"
        raise UserError("MSA-INFER-501", message, setting="--size")
    with atomic_file(path) as temporary:
        FORMATS[target].write(temporary, network.eval(), metadata, size)
        require_same(FORMATS[target].open(temporary), Deployed(network, metadata), size)


@torch.no_grad()
def require_same(run: Run, deployed: Deployed, size: Size = None) -> None:
    """Raise UserError unless logits differ by `TOLERANCE` at most, and labels only where that explains it.

    Compared on noise of two batch sizes and, if `size` is None, two image sizes.
    """
    generator = torch.Generator().manual_seed(0)
    for batch, any_size in _CHECKED:
        height, width = size or any_size
        image = torch.randint(256, (batch, 3, height, width), generator=generator).float()
        expected, _ = deployed(image)
        logits, labels = run(image)
        tolerance = TOLERANCE * expected.abs().max()
        chosen = expected.gather(1, labels.long().unsqueeze(1)).squeeze(1)
        if not ((logits - expected).abs().max() <= tolerance and (chosen >= expected.amax(1) - 2 * tolerance).all()):
            raise UserError(
                "MSA-INFER-006",
                f"the exported model's output differs from PyTorch's by more than {TOLERANCE} of the largest logit for a size of "
                f"{height}x{width}; nothing was written, use another --to",
                setting="--to",
            )


def _graph(network: nn.Module, metadata: ModelMetadata, size: Size) -> torch.export.ExportedProgram:
    """The deployed network as a graph, with a free batch and, if `size` is None, free height and width.

    Raises UserError if torch cannot export a free size: 2.11 for networks on ResNet, whose pooling pads.
    """
    batch, height, width = (torch.export.Dim(name, min=1) for name in ("batch", "height", "width"))
    free = {0: batch} if size else {0: batch, 2: height, 3: width}
    example = torch.zeros(2, 3, *(size or (70, 101)))
    # Otherwise the graph would require the example's relation to the cells: larger than one, and no multiple.
    with tracing.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        try:
            return torch.export.export(Deployed(network, metadata), (example,), dynamic_shapes=(free,))
        except UserError:
            raise
        except (torch._dynamo.exc.UserError, RuntimeError, ValueError, TypeError, AssertionError) as error:
            what, advice = (f"{size[0]}x{size[1]}", "use another --to") if size else ("any image size", "set --size")
            why = " ".join(str(error).split())[:150]
            raise UserError(
                "MSA-INFER-007",
                f"torch {torch.__version__} cannot export {metadata.name} for {what} ({why}); {advice}",
                setting="--size",
            ) from error


def _write_torch(path: Path, network: nn.Module, metadata: ModelMetadata, size: Size) -> None:
    with path.open("wb") as file:  # torch wants .pt2 at the end of a name
        torch.export.save(_graph(network, metadata, size), file, extra_files={METADATA: metadata.model_dump_json()})


def _open_torch(path: Path) -> Run:
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(path: Path, network: nn.Module, metadata: ModelMetadata, size: Size) -> None:
    ir = _require_onnx().ir
    with _without_warnings():
        program = torch.onnx.export(
            _graph(network, metadata, size),
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
    graph.inputs[0].shape = ir.Shape(["batch", 3, height, width])
    graph.outputs[0].shape = ir.Shape(["batch", len(metadata.classes), height, width])
    graph.outputs[1].shape = ir.Shape(["batch", height, width])
    program.model.metadata_props[METADATA] = metadata.model_dump_json()
    program.save(path, external_data=False)


def _floor_divide(number: Any, divisor: Any) -> Any:
    """ONNX divides integers towards zero, and its remainder has the divisor's sign."""
    op = getattr(_require_onnx(), f"opset{_OPSET}")
    return op.Div(op.Sub(number, op.Mod(number, divisor)), divisor)


def _open_onnx(path: Path) -> Run:
    disable_telemetry()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = session.run(None, {"image": image_NCHW.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(labels)

    return run


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide the exporter's own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _require_onnx() -> Any:
    disable_telemetry()
    try:
        import onnxruntime  # noqa: F401
        import onnxscript
    except ImportError as error:
        raise UserError(
            "MSA-INFER-005",
            f"--to onnx needs the package {error.name}, which is not installed; run: pip install 'msanet[export]'",
            setting="--to",
        ) from error
    return onnxscript


def _write_safetensors(path: Path, network: nn.Module, metadata: ModelMetadata, size: Size) -> None:
    save_network(path, network.state_dict(), metadata)


def _open_safetensors(path: Path) -> Run:
    return Deployed(*load_network(path, torch.device("cpu")))


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _open_onnx),
    "torch": Format(".pt2", _write_torch, _open_torch),
    "safetensors": Format(".safetensors", _write_safetensors, _open_safetensors),
}
