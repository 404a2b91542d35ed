"""A trained network as one file: an ONNX, OpenVINO or torch.export graph that does not need msanet, or weights.

Before a file gets its name it is run, and its output must equal the network's.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor, nn

from msanet.errors import UserError
from msanet.files import PARTIAL, atomic_file
from msanet.inference.backends import Run, open_onnx, open_openvino
from msanet.inference.export_graph import Deployed, Size, exported_graph
from msanet.inference.export_onnx import quantize_onnx, write_onnx
from msanet.inference.export_openvino import WEIGHTS_ENDING, convert_to_openvino
from msanet.models.external import AdaptedNetwork
from msanet.models.io import METADATA, ModelMetadata, load_network, save_network

__all__ = [
    "FORMATS",
    "QUANTIZABLE",
    "TOLERANCE",
    "Deployed",
    "Size",
    "export_network",
    "export_quantized",
    "require_same",
]

TOLERANCE = 1e-3
"""The largest difference of logits between a file and the network, as a share of the largest logit."""

_CHECKED = ((1, (64, 96)), (2, (97, 45)))  # batch, (height, width): a multiple of every stride, and of none


class Format(NamedTuple):
    """A kind of file.

    Args:
        ending: Of its name.
        write: Network, metadata and size into a path.
        open: The file as something to run.
        companion: Ending of a second file that it has, empty if there is none.
    """

    ending: str
    write: Callable[[Path, nn.Module, ModelMetadata, Size], None]
    open: Callable[[Path], Run]
    companion: str = ""


@torch.no_grad()
def export_network(path: Path, target: str, network: nn.Module, metadata: ModelMetadata, size: Size = None) -> None:
    """Write `network`, which is on the CPU, to `path` in the format `target` of FORMATS; `path` is complete or absent.

    size: see `Size`; the batch is free. Raises UserError if the file's output differs or a package is missing.
    """
    _require_fitting(metadata, network, size)
    form = FORMATS[target]
    with _whole(path, form) as temporary:
        form.write(temporary, network.eval(), metadata, size)
        require_same(form.open(temporary), Deployed(network, metadata), size)


@torch.no_grad()
def export_quantized(
    path: Path,
    target: str,
    network: nn.Module,
    metadata: ModelMetadata,
    images: Iterable[Tensor],
    size: Size = None,
    fp32: Path | None = None,
) -> None:
    """As `export_network`, in int8; see `quantize_onnx`. What that costs in mIoU is to be measured.

    Args:
        path: The file to write.
        target: One of QUANTIZABLE.
        network: On the CPU.
        metadata: Its.
        images: To calibrate with; see `quantize_onnx`.
        size: See `Size`.
        fp32: Write the same network in float32 to this path too.

    Raises:
        UserError: As `export_network`.
    """
    _require_fitting(metadata, network, size)
    form = FORMATS[target]
    with _whole(path, form) as temporary, TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        graph, quantized = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        export_network(graph, "onnx", network, metadata, size)
        quantize_onnx(graph, quantized, images)
        for source, file in ((quantized, temporary), (graph, fp32)):
            if file and target == "openvino":
                convert_to_openvino(source, file, metadata)
            elif file:
                source.replace(file)
        _require_finite(form.open(temporary), Deployed(network, metadata), size)


def _require_fitting(metadata: ModelMetadata, network: nn.Module, size: Size) -> None:
    if isinstance(network, AdaptedNetwork) and network.layout.fixed and size != network.layout.size:
        height, width = network.layout.size
        message = f"{metadata.name} takes images of {height}x{width} only; set --size {height} {width}"
        raise UserError("MSA-INFER-501", message, setting="--size")


@contextmanager
def _whole(path: Path, form: Format) -> Iterator[Path]:
    """A path to write to, with the format's ending; it, and its companion, become `path` if the block ends without error."""
    temporary = path.with_name(f"{path.name}{PARTIAL}{form.ending}")
    with atomic_file(path, temporary), ExitStack() as stack:
        if form.companion:
            second = temporary.with_suffix(form.companion)
            stack.enter_context(atomic_file(path.with_suffix(form.companion), second))
        yield temporary
        if form.companion:
            path.unlink(missing_ok=True)  # an earlier one, which must not be seen with the new companion


@torch.no_grad()
def require_same(run: Run, deployed: Deployed, size: Size = None) -> None:
    """Raise UserError unless logits differ by `TOLERANCE` at most, and labels only where that explains it.

    Compared on noise of two batch sizes and, if `size` is None, two image sizes.
    """
    generator = torch.Generator().manual_seed(0)
    for batch, any_size in _CHECKED:
        height, width = size or any_size
        image = _noise(deployed, (batch, height, width), generator)
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


def _noise(deployed: Deployed, shape: tuple[int, int, int], generator: torch.Generator | None = None) -> Tensor:
    """Images (N, C, H, W) in which all gray values occur, or of other bands the usual ones."""
    (batch, height, width), channels = shape, deployed.metadata.image.channels
    if deployed.metadata.image.is_rgb:
        return torch.randint(256, (batch, channels, height, width), generator=generator).float()
    return deployed.mean + deployed.std * torch.randn(batch, channels, height, width, generator=generator)


def _require_finite(run: Run, deployed: Deployed, size: Size) -> None:
    for batch, any_size in _CHECKED:
        height, width = size or any_size
        logits, labels = run(_noise(deployed, (batch, height, width)))
        if not logits.isfinite().all() or labels.shape != (batch, height, width):
            raise UserError(
                "MSA-INFER-763",
                f"the quantized network's output is not finite for a size of {height}x{width}; nothing was written, export "
                "without --quantize",
                setting="--quantize",
            )


def _write_torch(path: Path, network: nn.Module, metadata: ModelMetadata, size: Size) -> None:
    with path.open("wb") as file:  # torch wants .pt2 at the end of a name
        torch.export.save(
            exported_graph(network, metadata, size), file, extra_files={METADATA: metadata.model_dump_json()}
        )


def _open_torch(path: Path) -> Run:
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_openvino(path: Path, network: nn.Module, metadata: ModelMetadata, size: Size) -> None:
    with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        graph = Path(folder) / "fp32.onnx"
        write_onnx(graph, network, metadata, size)
        convert_to_openvino(graph, path, metadata)


def _write_safetensors(path: Path, network: nn.Module, metadata: ModelMetadata, size: Size) -> None:
    save_network(path, network.state_dict(), metadata)


def _open_safetensors(path: Path) -> Run:
    return Deployed(*load_network(path, torch.device("cpu")))


FORMATS = {
    "onnx": Format(".onnx", write_onnx, lambda path: open_onnx(path).run),
    "openvino": Format(".xml", _write_openvino, lambda path: open_openvino(path).run, WEIGHTS_ENDING),
    "torch": Format(".pt2", _write_torch, _open_torch),
    "safetensors": Format(".safetensors", _write_safetensors, _open_safetensors),
}

QUANTIZABLE = ("onnx", "openvino")
"""Formats that `export_quantized` writes."""
