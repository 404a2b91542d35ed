"""U-Net is figure 1 of its paper, same-padded and with BatchNorm."""

import torch
from torch import nn

from msanet.models import build_model


def test_parameters_match_the_papers_figure() -> None:
    """Two 3x3 convolutions a level (BN instead of a bias), 2x2 up-convolutions that halve the channels, 1x1 at last."""

    def pair(c_in: int, c: int) -> int:
        return (c_in * c + c * c) * 9 + 4 * c

    channels = (64, 128, 256, 512, 1024)
    encoder = sum(pair(c_in, c) for c_in, c in zip((3, *channels), channels, strict=False))
    decoder = sum(2 * c * c * 4 + c + pair(2 * c, c) for c in channels[:-1])
    with torch.device("meta"):
        model = build_model("unet", 21)
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder + 64 * 21 + 21 == 31_038_933


def test_23_convolutions_at_the_sizes_of_the_figure() -> None:
    with torch.device("meta"):
        model = build_model("unet", 2).eval()
        seen = []
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(lambda m, i, output: seen.append(tuple(output.shape[1:])))
        model(torch.zeros(1, 3, 224, 224))
    down = [(64 * 2**i, 224 // 2**i, 224 // 2**i) for i in range(5) for _ in range(2)]
    up = [(64 * 2**i, 224 // 2**i, 224 // 2**i) for i in (3, 2, 1, 0) for _ in range(3)]
    assert seen == [*down, *up, (2, 224, 224)]
    assert len(seen) == 23  # section 2: "In total the network has 23 convolutional layers"
