"""An image through a network: 8-bit RGB or bands in; train ids or probabilities out, at the image's own size."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet import distributed
from msanet.config import EvaluationConfig
from msanet.data.image.color import normalize
from msanet.data.label_tensors import label_tensor_dtype
from msanet.errors import UserError
from msanet.inference.crf import refine, require_pydensecrf
from msanet.logs import EVERY_RANK
from msanet.models.blocks import bilinear

logger = logging.getLogger(__name__)

_IDLE_SIZE = (64, 64)


_LESS_MEMORY = (
    "set evaluation.window or make it smaller, lower evaluation.window_batch, evaluation.resize or evaluation.scales, or set "
    "evaluation.precision=bf16"
)


@contextmanager
def explain_out_of_memory(advice: str = _LESS_MEMORY, setting: str = "evaluation.window") -> Iterator[None]:
    """Raise UserError instead of PyTorch's error."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        message = f"out of memory for one image ({str(error).splitlines()[0]}); {advice}"
        raise UserError("MSA-INFER-004", message, setting=setting) from error


class Predictor:
    """Puts images through a network in evaluation mode, on the network's device.

    A pass is the image at one of `settings.scales`, flipped or not, at once or in sliding windows. Its size is that of
    `settings.resize` (else the image's own) times the scale, rounded; its logits are flipped back and resized
    (bilinear) to the image's own size. Softmax probabilities of several passes are averaged, as in mmsegmentation
    (SegTTAModel) and in DeepLab's TensorFlow code.

    Windows overlap by `settings.overlap`; the last one of a row or column is moved back to the border. Their logits are
    averaged with weights that fall linearly from a window's middle to its borders, one by one in a fixed order, so the
    result does not depend on `settings.window_batch`. Memory in addition to the network's: up to four float32 maps of
    K x H x W, 160 MB each for 19 classes at 2048x1024. When out of memory the batch of windows is halved, with a warning.

    lockstep: the number of forwards must be known in advance (see `num_forwards`), so the batch is not halved.
    Raises UserError if pydensecrf2 is missing for `settings.crf` and, from all methods, when out of memory.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: EvaluationConfig,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        lockstep: bool = False,
    ) -> None:
        if settings.crf.enabled:
            require_pydensecrf()
        self.model = model
        self.settings = settings
        self.mean, self.std = mean, std
        self.lockstep = lockstep
        self.window_batch = settings.window_batch
        self.device = next(model.parameters()).device
        self._passes = [(scale, flipped) for scale in settings.scales for flipped in (False, True)[: 1 + settings.flip]]
        self._are_logits = len(self._passes) == 1 and not settings.crf.enabled

    @torch.inference_mode()
    @explain_out_of_memory()
    def labels(self, image_HWC: Tensor) -> Tensor:
        """Train ids (H, W), see label_tensors.py, of an image (H, W, C), such as uint8 RGB: the likeliest class of each pixel."""
        return _argmax(self.scores(image_HWC))

    @torch.inference_mode()
    @explain_out_of_memory()
    def probabilities(self, image_HWC: Tensor) -> Tensor:
        """Probabilities (K, H, W) float32 of an image (H, W, C); the CRF's marginals where it is enabled."""
        return self.as_probabilities(self.scores(image_HWC))

    @torch.inference_mode()
    @explain_out_of_memory()
    def labels_and_probabilities(self, image_HWC: Tensor) -> tuple[Tensor, Tensor]:
        """`labels` and `probabilities` for the cost of one of them."""
        scores_1KHW = self.scores(image_HWC)
        return _argmax(scores_1KHW), self.as_probabilities(scores_1KHW)

    @torch.inference_mode()
    @explain_out_of_memory()
    def labels_and_confidence(self, image_HWC: Tensor) -> tuple[Tensor, Tensor]:
        """`labels`, and the probability (H, W) float32 of each pixel's label."""
        scores_1KHW = self.scores(image_HWC)
        highest, labels = scores_1KHW.max(dim=1)
        confidence = softmax_of_highest(highest, scores_1KHW) if self._are_logits else highest
        return labels[0].to(label_tensor_dtype(scores_1KHW.shape[1])), confidence[0]

    def with_settings(self, settings: EvaluationConfig) -> "Predictor":
        """Of the same network."""
        return Predictor(self.model, settings, self.mean, self.std, self.lockstep)

    def num_forwards(self, height: int, width: int) -> int:
        """Forwards of the network that an image of this size takes."""
        count = 0
        for scale, _ in self._passes:
            rows, columns = self.window_starts(self._input_size((height, width), scale))
            count += -(-len(rows) * len(columns) // self.window_batch)
        return count

    @torch.inference_mode()
    def idle_forward(self) -> None:
        """One forward of a small black image, for the collectives inside it (ZeRO-3)."""
        self._forward(torch.zeros(1, len(self.mean), *_IDLE_SIZE, device=self.device))

    def scores(self, image_HWC: Tensor) -> Tensor:
        """(1, K, H, W) float32: logits for one pass without CRF, else probabilities."""
        image_HWC = image_HWC.to(self.device)
        image_1CHW = normalize(image_HWC.unsqueeze(0), self.mean, self.std)
        if self._are_logits:
            return self._logits(image_1CHW, *self._passes[0])
        mean_1KHW = self._logits(image_1CHW, *self._passes[0]).softmax(dim=1)
        for scale, flipped in self._passes[1:]:
            mean_1KHW += self._logits(image_1CHW, scale, flipped).softmax(dim=1)
        mean_1KHW /= len(self._passes)
        if self.settings.crf.enabled:
            return refine(mean_1KHW[0], image_HWC, self.settings.crf).unsqueeze(0)
        return mean_1KHW

    def as_probabilities(self, scores_1KHW: Tensor) -> Tensor:
        """(K, H, W) of what `scores` returns."""
        return (scores_1KHW.softmax(dim=1) if self._are_logits else scores_1KHW)[0]

    def _logits(self, image_1CHW: Tensor, scale: float, flipped: bool) -> Tensor:
        """Logits (1, K, H, W) of one pass, at the image's own size."""
        own_size = (image_1CHW.shape[2], image_1CHW.shape[3])
        size = self._input_size(own_size, scale)
        x = image_1CHW
        if size != own_size:
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        logits = self._windowed(x.flip(3)).flip(3) if flipped else self._windowed(x)
        if size != own_size:
            logits = bilinear(logits, own_size)
        return logits

    def _windowed(self, x_1CHW: Tensor) -> Tensor:
        """Logits (1, K, h, w) of the network's input, from several windows if it is larger than one."""
        size = (x_1CHW.shape[2], x_1CHW.shape[3])
        rows, columns = self.window_starts(size)
        origins = [(top, left) for top in rows for left in columns]
        if len(origins) == 1:
            return self._forward(x_1CHW)
        height, width = self.window_size(size)
        row_weights, column_weights = (
            blend_weights(starts, window, length).to(self.device)
            for starts, window, length in zip((rows, columns), (height, width), size, strict=True)
        )
        blended_KHW: Tensor | None = None
        done = 0
        while done < len(origins):
            batch = origins[done : done + self.window_batch]
            windows = torch.cat([x_1CHW[..., top : top + height, left : left + width] for top, left in batch])
            logits_NKHW = self.forward_if_it_fits(windows)
            if logits_NKHW is None:
                continue
            if blended_KHW is None:
                blended_KHW = logits_NKHW.new_zeros(logits_NKHW.shape[1], *size)
            for number, (top, left) in enumerate(batch, start=done):
                row, column = divmod(number, len(columns))
                weight_HW = row_weights[row, :, None] * column_weights[column]
                target = blended_KHW[:, top : top + height, left : left + width]
                target.addcmul_(logits_NKHW[number - done], weight_HW)
            done += len(batch)
        assert blended_KHW is not None
        return blended_KHW.unsqueeze(0)

    def forward_if_it_fits(self, windows_NCHW: Tensor) -> Tensor | None:
        """Logits, or None if out of memory; then `window_batch` is smaller."""
        try:
            return self._forward(windows_NCHW)
        except RuntimeError as error:
            if len(windows_NCHW) == 1 or self.lockstep or not is_out_of_memory(error):
                raise
        self.window_batch = len(windows_NCHW) // 2
        logger.warning(
            f"out of memory for {len(windows_NCHW)} windows at a time; evaluation.window_batch is {self.window_batch} "
            "from here on",
            extra=EVERY_RANK,
        )
        return None

    def _forward(self, x_NCHW: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            distributed.report_progress("predicting windows of an image")
            logits_NKHW: Tensor = self.model(x_NCHW.contiguous(memory_format=torch.channels_last))
        return logits_NKHW.float()

    def _input_size(self, own_size: tuple[int, int], scale: float) -> tuple[int, int]:
        height, width = self.settings.resize or own_size
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def window_size(self, size: tuple[int, int]) -> tuple[int, int]:
        window = self.settings.window or size
        return min(window[0], size[0]), min(window[1], size[1])

    def window_starts(self, size: tuple[int, int]) -> tuple[list[int], list[int]]:
        """First rows, and first columns, of the windows over an input of this size."""
        windows = self.window_size(size)
        steps = (max(1, round(window * (1 - self.settings.overlap))) for window in windows)
        rows, columns = (
            [*range(0, length - window, step), length - window]
            for length, window, step in zip(size, windows, steps, strict=True)
        )
        return rows, columns


def blend_weights(starts: list[int], window: int, length: int) -> Tensor:
    """(len(starts), window) float32: weights of windows along one axis; those of a pixel sum to 1."""
    ramp = torch.arange(1.0, window + 1)
    triangle = torch.minimum(ramp, ramp.flip(0))
    total = torch.zeros(length)
    for start in starts:
        total[start : start + window] += triangle
    return torch.stack([triangle / total[start : start + window] for start in starts])


def _argmax(scores_1KHW: Tensor) -> Tensor:
    dtype = label_tensor_dtype(scores_1KHW.shape[1])
    return scores_1KHW.max(dim=1).indices[0].to(dtype)  # argmax is the same, and takes four times as long on CPUs


def softmax_of_highest(highest_1HW: Tensor, logits_1KHW: Tensor) -> Tensor:
    """The softmax of the highest logits, some rows at a time: a third of the time of a full softmax on a CPU.

    Clamped at -80, since exp of less is subnormal and 50 times as slow.
    """
    rows = zip(logits_1KHW.split(64, dim=2), highest_1HW.split(64, dim=1), strict=True)
    sums = [(logits - top.unsqueeze(1)).clamp_(min=-80).exp_().sum(dim=1) for logits, top in rows]
    return torch.cat(sums, dim=1).reciprocal_()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the host is out of memory."""
    known = (
        "DefaultCPUAllocator",
        "CUDA error: out of memory",
        "ALLOC_FAILED",  # of cuBLAS and cuDNN
        "std::bad_alloc",
        "Insufficient memory",  # of OpenCV
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in known)
