"""Attention maps as images: the weights of scales, and where attention looks for chosen pixels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from msanet.data.image.color import normalize
from msanet.errors import UserError
from msanet.inference.predictor import Predictor, explain_out_of_memory
from msanet.models.attention_to_scale import AttentionToScale
from msanet.models.blocks import upsample
from msanet.models.msanet import ATTENTION_CELLS, MSANet
from msanet.report.bands import picture
from msanet.report.heat import Float, attention_image, heat, scale_panel
from msanet.report.palette import UInt8


class AttentionMaps:
    """Attention maps of a predictor's network: the full image in one pass at scale 1, of `settings.resize` if set.

    queries_Q2: (row, column) of pixels, for MSANet; the center by default. Raises UserError if the network has no maps or
    takes no queries, and when out of memory.
    """

    def __init__(self, predictor: Predictor, queries_Q2: Sequence[tuple[int, int]] = ()) -> None:
        model = predictor.model
        attends = isinstance(model, MSANet) and model.attends
        if not attends and not isinstance(model, AttentionToScale):
            raise UserError(
                "MSA-INFER-001",
                f"the network {type(model).__name__} has no maps, expected attention_to_scale, or msanet with "
                "model.attention=full; remove maps from --write",
                setting="--write",
            )
        if queries_Q2 and not attends:
            raise UserError(
                "MSA-INFER-002",
                "--query is given, but attention_to_scale has no queries; remove it",
                setting="--query",
            )
        self.model = model
        self.settings = predictor.settings
        self.mean, self.std = predictor.mean, predictor.std
        self.queries_Q2 = tuple(queries_Q2)

    def images(self, image_HWC: UInt8) -> dict[str, UInt8]:
        """{what the file's name ends with: RGB image} of an image (H, W, C)."""
        if isinstance(self.model, AttentionToScale):
            weights = self.scale_weights(image_HWC)
            single = {f".scale-{scale}.png": heat(map_HW) for scale, map_HW in weights.items()}
            return {**single, ".scales.jpg": scale_panel(picture(image_HWC), weights)}
        height, width = image_HWC.shape[:2]
        queries_Q2 = self.queries_Q2 or ((height // 2, width // 2),)
        return {
            f".attention-{name}.jpg": attention_image(picture(image_HWC), maps_QHW, queries_Q2)
            for name, maps_QHW in self.attention(image_HWC, queries_Q2).items()
        }

    def scale_weights(self, image_HWC: UInt8) -> dict[str, Float]:
        """{scale: (H, W) weights, 1 in sum over scales}, upsampled as the network's scores are."""
        model = self.model
        assert isinstance(model, AttentionToScale)
        with self._network():
            x_1CHW = self._input(image_HWC)
            weights_1SHW = upsample(model.scale_weights(x_1CHW).float(), model.stride, _size(x_1CHW))
            weights_SHW = _at_size(weights_1SHW, image_HWC.shape[:2])
        return {f"{float(scale):g}": weights_SHW[number] for number, scale in enumerate(model.scales)}

    def attention(self, image_HWC: UInt8, queries_Q2: Sequence[tuple[int, int]]) -> dict[str, Float]:
        """{module: (Q, H, W), how much each position gives to each query}, see `MSANet.attention_maps`; not in sum 1.

        Raises UserError if a query lies outside the image.
        """
        model = self.model
        assert isinstance(model, MSANet)
        height, width = image_HWC.shape[:2]
        outside = [query for query in queries_Q2 if not (0 <= query[0] < height and 0 <= query[1] < width)]
        if outside:
            raise UserError(
                "MSA-INFER-003",
                f"--query is {outside[0][0]} {outside[0][1]}, expected row and column below {height} and {width}; fix it",
                setting="--query",
            )
        with self._network():
            x_1CHW = self._input(image_HWC)
            rows, columns = _size(x_1CHW)
            queries_Q2 = [(row * rows // height, column * columns // width) for row, column in queries_Q2]
            maps = model.attention_maps(x_1CHW, queries_Q2)
            return {
                name: _at_size(upsample(map_1QHW, ATTENTION_CELLS[name], (rows, columns)), (height, width))
                for name, map_1QHW in maps.items()
            }

    def _input(self, image_HWC: UInt8) -> Tensor:
        """(1, 3, h, w), as the Predictor's pass at scale 1 has it."""
        pixels_1HWC = torch.from_numpy(image_HWC).to(next(self.model.parameters()).device).unsqueeze(0)
        x_1CHW = normalize(pixels_1HWC, self.mean, self.std)
        if self.settings.resize is None or self.settings.resize == _size(x_1CHW):
            return x_1CHW
        return F.interpolate(x_1CHW, self.settings.resize, mode="bilinear", align_corners=False, antialias=True)

    @contextmanager
    def _network(self) -> Iterator[None]:
        device = next(self.model.parameters()).device.type
        autocast = torch.autocast(device, torch.bfloat16, self.settings.precision == "bf16")
        advice = "lower evaluation.resize, or remove maps from --write"
        with explain_out_of_memory(advice, "evaluation.resize"), torch.inference_mode(), autocast:
            yield


def _size(x_NCHW: Tensor) -> tuple[int, int]:
    return x_NCHW.shape[2], x_NCHW.shape[3]


def _at_size(x_1CHW: Tensor, size: tuple[int, int]) -> Float:
    if _size(x_1CHW) != size:
        x_1CHW = F.interpolate(x_1CHW, size, mode="bilinear", align_corners=False)
    return x_1CHW[0].cpu().numpy()
