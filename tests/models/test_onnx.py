"""Networks go to ONNX with free batch size, height and width, and mean the same there."""

from pathlib import Path

import pytest
import torch

from msanet.models import build_model

pytest.importorskip("onnxscript", reason="torch's ONNX exporter needs onnxscript (extra `test`)")
onnxruntime = pytest.importorskip("onnxruntime", reason="runs the exported network (extra `test`)")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("msanet", {}),
        ("fcn", {}),
        ("unet", {}),
        ("deeplab_msc_largefov", {}),
        ("deeplabv3", {}),
        ("attention_to_scale", {"scales": "1,0.3"}),  # of 12 and 8 cells: rounded up
    ],
)
def test_same_logits_as_in_torch(name: str, options: dict[str, str], tmp_path: Path) -> None:
    """Sizes are multiples of 32 from 64 on: padding to a multiple is a branch on the size, which a graph has not."""
    torch.manual_seed(0)
    model = build_model(name, 5, width=0.02, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # FCN's scores start at zero
                parameter.normal_(std=0.1)
    rows, columns = (32 * torch.export.Dim(axis, min=2, max=64) for axis in ("rows", "columns"))
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64), 2: rows, 3: columns},)
    example = torch.randn(2, 3, 64, 96)
    program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    image = torch.randn(1, 3, 96, 64)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = model(image)
    assert expected.std() > 0
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
