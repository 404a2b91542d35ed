"""torch.compile of a network's blocks: one graph each, the same numbers, and nothing compiled in evaluation."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from msanet.config import parse_config
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.errors import UserError
from msanet.models.activation_checkpointing import Checkpointable
from msanet.models.blocks import conv_norm_relu
from msanet.training.engine import initialize
from msanet.training.engine.compiling import compile_blocks, require_compiler
from support.errors import raises_user_error
from support.networks import images, network, random_labels, training_loss
from support.ranks import run_ranks
from support.small_runs import run_steps, small_config, start, validate

CASES = ("msanet", "fcn-8s", "unet", "msc-largefov", "deeplabv3", "attention-to-scale-unet")


class Counter:
    """A backend that runs graphs as they are, and counts them."""

    graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_a_missing_compiler_is_reported(
    device: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(variable, "mine -m64")
    require_compiler(torch.device(device))
    monkeypatch.delenv(variable)
    with raises_user_error("MSA-TRAIN-007", setting="trainer.compile", mentions=variable):
        require_compiler(torch.device(device))


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_one_graph_each_and_change_nothing(case: str) -> None:
    plain, compiled, counter = network(case), network(case), Counter()
    compile_blocks(compiled, fixed_size=True, backend=counter)
    image_NCHW = images(2, 32, 64)
    labels_NHW = random_labels(image_NCHW)
    graphs = []
    for _ in range(2):
        losses = []
        for model in (plain, compiled):
            torch.manual_seed(0)  # of dropout
            losses.append(training_loss(model, image_NCHW, labels_NHW))
            losses[-1].backward()
        assert torch.equal(*losses)
        graphs.append(counter.graphs)
    assert graphs[0] == graphs[1] >= 6, "a graph break would be an error; the second time nothing is compiled"
    for (name, a), (other, b) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert name == other and (a.grad is None or (b.grad is not None and torch.equal(a.grad, b.grad))), name
    assert list(plain.state_dict()) == list(compiled.state_dict())
    for size in (32, 48, 80):
        with torch.no_grad():
            compiled.eval()(images(1, size, size))
    assert counter.graphs == graphs[0]


def test_images_of_many_sizes_compile_twice() -> None:
    """Once for the first size, once for any."""
    counts = {}
    for fixed_size in (False, True):
        torch.compiler.reset()
        model, counter = _Small(), Counter()
        compile_blocks(model, fixed_size, backend=counter)
        for size in (16, 20, 24, 28):
            model(torch.randn(2, 8, size, size + 4))
        counts[fixed_size] = counter.graphs
    assert counts == {False: 2, True: 4}


def test_kernels_that_are_compiled_compute_the_same() -> None:
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler, which torch.compile needs on CPUs")
    torch.manual_seed(0)
    plain, compiled = _Small(), _Small()
    compiled.load_state_dict(plain.state_dict())
    compile_blocks(compiled, fixed_size=True)
    x = torch.randn(2, 8, 16, 16)
    for model in (plain, compiled):
        model(x).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-5 * a.grad.abs().max().item(), msg=name)


class _Small(Checkpointable):
    def __init__(self) -> None:
        super().__init__()
        self.block = conv_norm_relu(8, 8, 3)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.run(self.block, x_NCHW)
        return found


def _compile_in_training(shards: str) -> None:
    """At each stage, with activation checkpointing: the bits of the same run uncompiled, with a validation in between."""
    counter = Counter()

    def counted(model: nn.Module, fixed_size: bool) -> None:
        compile_blocks(model, fixed_size, backend=counter)

    initialize.compile_blocks = counted  # type: ignore[assignment]
    for stage in (0, 1, 2):
        ends = []
        for is_compiled in (False, True):
            torch.compiler.reset()
            counter.graphs = 0
            config = small_config(shards, stage, "unet")
            trainer = config.trainer.model_copy(
                update={"compile": is_compiled, "activation_checkpointing": True, "ema_decay": 0.0}
            )
            run = start(config.model_copy(update={"trainer": trainer}))
            run_steps(run, 1)
            assert validate(run, ShardSource(LocalStorage(Path(shards)), "val", run.manifest))
            run_steps(run, 1)
            assert counter.graphs == (9 if is_compiled else 0), counter.graphs
            ends.append(run.checkpoint().weights)
        assert ends[0].keys() == ends[1].keys()
        assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items()), stage
    print("compared")


def test_compiled_training_at_each_stage(shards: Path) -> None:
    assert all("compared" in said for said in run_ranks(2, __file__, "_compile_in_training", {"shards": str(shards)}))


@pytest.mark.parametrize("other", [{"zero_stage": 3}, {"sync_batchnorm": True}])
def test_what_leaves_nothing_to_compile_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"trainer.{next(iter(other))}=.* has nothing to compile"):
        parse_config({"trainer": {"compile": True, **other}}, "test")
