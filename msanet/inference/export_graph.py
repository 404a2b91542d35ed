"""A network as it is used elsewhere: images in, labels out; and the graph of it that torch exports."""

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as tracing

from msanet.data.label_tensors import label_tensor_dtype
from msanet.errors import UserError
from msanet.models.io import ModelMetadata

Size = tuple[int, int] | None
"""(height, width) of all images, or None where a file takes any."""


class Deployed(nn.Module):
    """A network in evaluation mode as it is used: images in, labels out; the normalization is inside.

    forward: images (N, C, H, W) float32, RGB in gray values from 0 to 255 or bands as stored -> logits (N, K, H, W) float32,
    and labels (N, H, W) uint8 (int32 of more than 255 classes), the train id of the likeliest class.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, metadata: ModelMetadata) -> None:
        super().__init__()
        self.network, self.metadata = network, metadata
        self.register_buffer("mean", torch.tensor(metadata.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(metadata.std).view(1, -1, 1, 1))
        self.eval()

    def forward(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network((image_NCHW - self.mean) / self.std)
        return logits, logits.argmax(dim=1).to(label_tensor_dtype(len(self.metadata.classes)))


def exported_graph(network: nn.Module, metadata: ModelMetadata, size: Size) -> torch.export.ExportedProgram:
    """The deployed network as a graph, with a free batch and, if `size` is None, free height and width.

    Raises UserError if torch cannot export a free size: 2.11 for networks on ResNet, whose pooling pads.
    """
    batch, height, width = (torch.export.Dim(name, min=1) for name in ("batch", "height", "width"))
    free = {0: batch} if size else {0: batch, 2: height, 3: width}
    example = torch.zeros(2, metadata.image.channels, *(size or (70, 101)))
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
