"""Networks without values: the same tensors, no memory, and nothing imported for them."""

import subprocess
import sys

import pytest
import torch

from conftest import REPOSITORY
from msanet.models import MODELS, build_model
from msanet.models.meta import on_meta_device

WITHOUT_THE_COMPILER = """
import sys
from msanet.models import MODELS, build_model
from msanet.models.meta import on_meta_device
with on_meta_device():
    for name in MODELS:
        build_model(name, 5, width=0.05)
        assert "torch._dynamo" not in sys.modules, name
"""


@pytest.mark.parametrize("name", MODELS)
def test_a_skeleton_has_the_tensors_of_the_network(name: str) -> None:
    with on_meta_device():
        skeleton = build_model(name, 5, width=0.05)
    network = build_model(name, 5, width=0.05)
    found, expected = (
        {key: (tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()}
        for model in (skeleton, network)
    )
    assert found == expected
    assert {tensor.device for tensor in skeleton.state_dict().values()} == {torch.device("meta")}


def test_pytorchs_compiler_is_not_imported_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_COMPILER], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
