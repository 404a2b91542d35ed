"""Runtimes of exported networks: ONNX Runtime and OpenVINO, on the CPU, as networks that can be evaluated and used."""

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from msanet.errors import UserError
from msanet.logs import once
from msanet.models.io import METADATA, ModelMetadata, load_network, parse_metadata
from msanet.telemetry import disable_telemetry

logger = logging.getLogger(__name__)

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (N, C, H, W) float32, RGB in gray values or bands -> logits (N, K, H, W) float32 and labels (N, H, W)."""


class Opened(NamedTuple):
    """An exported file. metadata: its JSON, None if there is none. size: (height, width) that it takes, None for any."""

    run: Run
    metadata: str | None
    size: tuple[int, int] | None


class ExportedNetwork(nn.Module):
    """An exported file as a network: images in gray values in, logits out. It computes on the CPU, wherever its input is."""

    def __init__(self, opened: Opened, name: str, device: torch.device) -> None:
        super().__init__()
        self.opened, self.name = opened, name
        self.place = nn.Parameter(
            torch.zeros((), device=device), requires_grad=False
        )  # tells where inputs and outputs are
        self.eval()

    def forward(self, image_NCHW: Tensor) -> Tensor:
        found, size = (image_NCHW.shape[2], image_NCHW.shape[3]), self.opened.size
        if size and found != size:
            raise UserError(
                "MSA-INFER-762",
                f"'{self.name}' takes images of {size[0]}x{size[1]} only, found {found[0]}x{found[1]}; set "
                f"evaluation.resize=[{size[0]},{size[1]}], or export it without --size",
                setting="evaluation.resize",
            )
        if torch.is_autocast_enabled(image_NCHW.device.type):
            message = (
                "evaluation.precision=bf16 has no effect on an exported network, which computes as it was exported"
            )
            once(logger, logging.WARNING, message)
        logits, _ = self.opened.run(image_NCHW.float().cpu().contiguous(memory_format=torch.contiguous_format))
        return logits.to(image_NCHW.device)


def load_model(path: Path, device: torch.device) -> tuple[nn.Module, ModelMetadata]:
    """A network of any file that is evaluated and used: a `model.safetensors`, or an exported .onnx or .xml (OpenVINO).

    The metadata of an exported file has mean 0 and standard deviation 1, since its graph normalizes images itself.

    Raises:
        UserError: The file is missing, damaged or not written by msanet, or its runtime is not installed.
    """
    if path.suffix not in RUNTIMES:
        return load_network(path, device)
    if not path.is_file():
        raise UserError("MSA-INFER-760", f"'{path}' does not exist, expected an exported network; check the path")
    opened = RUNTIMES[path.suffix](path)
    if opened.metadata is None:
        raise UserError(
            "MSA-INFER-761",
            f"'{path}' has no model metadata, so it is not a file written by msanet; give a file of msanet export",
        )
    try:
        metadata = parse_metadata(opened.metadata, str(path))
    except UserError:
        raise
    except ValueError:
        raise _unreadable(path, "its model metadata is damaged") from None
    channels = metadata.image.channels
    metadata = metadata.model_copy(update={"mean": (0.0,) * channels, "std": (1.0,) * channels})
    return ExportedNetwork(opened, str(path), device), metadata


def open_onnx(path: Path) -> Opened:
    """An ONNX file in ONNX Runtime, with the same number of threads as torch."""
    runtime = require_package("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        shape = session.get_inputs()[0].shape
        assert [value.name for value in session.get_outputs()] == ["logits", "labels"]
    except Exception as error:  # a class of its own for each status
        raise _unreadable(path, str(error)) from None

    def run(image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = session.run(None, {"image": image_NCHW.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(labels)

    return Opened(run, session.get_modelmeta().custom_metadata_map.get(METADATA), _fixed_size(shape[2:]))


@cache
def openvino_core() -> Any:
    """The only `openvino.Core` of this process.

    Each has a stack for signal handlers (its CPU plugin, 2026.4). The second of two that are gone leaves the first one's
    memory behind as that stack, and the next signal with a handler, such as of a DataLoader's worker, ends the process.
    """
    return require_package("openvino", "openvino").Core()


def open_openvino(path: Path) -> Opened:
    """An OpenVINO file (.xml, its .bin next to it) on the CPU in float32, with the same number of threads as torch."""
    core = openvino_core()
    # Otherwise it computes in bfloat16 where the processor can.
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    try:
        model = core.read_model(path)
        shape = [axis.get_length() if axis.is_static else None for axis in model.inputs[0].partial_shape]
        assert [output.get_any_name() for output in model.outputs] == ["logits", "labels"]
        compiled = core.compile_model(model, "CPU", settings)
        text = model.get_rt_info([METADATA]).astype(str) if model.has_rt_info([METADATA]) else None
    except Exception as error:  # RuntimeError of C++, of many kinds
        raise _unreadable(path, str(error)) from None

    def run(image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = compiled([image_NCHW.numpy()]).values()
        return torch.from_numpy(logits.copy()), torch.from_numpy(
            labels.copy()
        )  # the next run writes into the same memory

    return Opened(run, text, _fixed_size(shape[2:]))


RUNTIMES: dict[str, Callable[[Path], Opened]] = {".onnx": open_onnx, ".xml": open_openvino}
"""By the ending of a file."""


def require_package(name: str, extra: str, setting: str = "--to") -> Any:
    """Import an optional package. Raises UserError that says how to install it."""
    disable_telemetry()
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            "MSA-INFER-005",
            f"this needs the package {error.name}, which is not installed; run: pip install 'msanet[{extra}]'",
            setting=setting,
        ) from error


def _fixed_size(axes: list[Any]) -> tuple[int, int] | None:
    height, width = axes
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _unreadable(path: Path, why: str) -> UserError:
    reason = " ".join(why.split())[:200]
    return UserError(
        "MSA-INFER-760", f"the exported network '{path}' cannot be read ({reason}); export it again from its checkpoint"
    )
