"""An image through a network: uint8 in, train ids out, at the image's own size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.data.augment import normalise


@torch.inference_mode()
def predict_labels(
    model: nn.Module,
    image_HWC: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    resize: tuple[int, int] | None = None,
    precision: str = "fp32",
) -> Tensor:
    """Train ids (H, W) uint8 of one uint8 RGB image (H, W, 3) on the model's device.

    resize: (height, width) of the network's input; the logits are brought back to the image's size (bilinear) before
    the argmax, so that the result is always judged at the label's own size.
    """
    size = (image_HWC.shape[0], image_HWC.shape[1])
    x = normalise(image_HWC.unsqueeze(0), mean, std)
    if resize and resize != size:
        x = F.interpolate(x, resize, mode="bilinear", align_corners=False, antialias=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits_1KHW = model(x.contiguous(memory_format=torch.channels_last))
    logits_1KHW = logits_1KHW.float()
    if logits_1KHW.shape[-2:] != size:
        logits_1KHW = F.interpolate(logits_1KHW, size, mode="bilinear", align_corners=False)
    return logits_1KHW.argmax(dim=1)[0].to(torch.uint8)
