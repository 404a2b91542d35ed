"""Exported files as networks: the evaluator's figures on ONNX Runtime and OpenVINO, int8, and what that costs."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from msanet.cli.export import export_job
from msanet.cli.export import main as export
from msanet.config import EvaluationConfig
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.evaluation.evaluator import evaluate
from msanet.inference import export as export_module
from msanet.inference.backends import load_model
from msanet.inference.export import FORMATS
from msanet.inference.export_calibration import calibration_images
from msanet.models.io import load_network, save_network
from support.errors import error_codes, raises_user_error
from support.metadata import metadata

onnx = pytest.importorskip("onnx", reason="reads the exported file (extra `export`)")
pytest.importorskip("onnxscript", reason="torch's ONNX exporter needs onnxscript (extra `export`)")
pytest.importorskip("onnxruntime", reason="runs the exported network (extra `export`)")
pytest.importorskip("openvino", reason="runs the exported network (extra `openvino`)")

CPU = torch.device("cpu")
PLAIN = EvaluationConfig(num_workers=0, panels=0, worst=0, calibration=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose labels differ from pixel to pixel."""
    own = metadata("unet", width=0.05)
    torch.manual_seed(0)
    network, images = own.build(), torch.randn(1, 3, 36, 44)
    with torch.no_grad():
        logits = network.eval()(images)
        network.get_parameter("classifier.bias").sub_(logits.mean(dim=(0, 2, 3)))
    file = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_network(file, network.state_dict(), own)
    return file


@pytest.fixture(scope="module")
def exported(checkpoint: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """model.int8.onnx and .xml, model.onnx and .xml, and what the commands printed. Torch exports the network once."""
    folder = tmp_path_factory.mktemp("exported")
    network, own = load_network(checkpoint, CPU)
    graph = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_module.write_onnx(graph, network, own, None)
    printed = {}
    for target, ending in (("onnx", "onnx"), ("openvino", "xml")):
        words = ["--checkpoint", str(checkpoint), "--to", target, "--out"]
        more = ["--quantize", "int8", "--measure", "--data", str(shards), "--calibration-images", "3"]
        with pytest.MonkeyPatch.context() as patch:
            lines: list[str] = []
            copy = partial(shutil.copy, graph)
            patch.setattr(export_module, "write_onnx", lambda path, *_, copy=copy: copy(path))
            patch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(write=lambda path, *_, copy=copy: copy(path)))
            patch.setattr("builtins.print", lambda *texts, to=lines: to.append(" ".join(map(str, texts))))
            assert export([*words, str(folder / f"model.int8.{ending}"), *more]) == 0
            assert export([*words, str(folder / f"model.{ending}")]) == 0
        printed[target] = "\n".join(lines)
    return folder, printed


@pytest.fixture(scope="module")
def source(shards: Path) -> ShardSource:
    storage = open_storage(str(shards))
    return ShardSource(storage, "val", read_manifest(storage))


@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_an_exported_file_is_evaluated_to_the_figures_of_its_checkpoint(
    ending: str, exported: tuple[Path, dict[str, str]], checkpoint: Path, source: ShardSource
) -> None:
    settings = PLAIN.model_copy(update={"resize": (41, 50), "scales": (1.0, 0.5), "flip": True})
    network, own = load_network(checkpoint, CPU)
    expected = evaluate(network, source, settings, own.mean, own.std)
    model, found = load_model(exported[0] / f"model.{ending}", CPU)
    assert found.model_copy(update={"mean": own.mean, "std": own.std}) == own
    result = evaluate(model, source, settings, found.mean, found.std)
    assert np.abs(result.matrix - expected.matrix).sum() <= 0.001 * expected.matrix.sum()
    assert expected.matrix.sum(axis=0).max() < 0.95 * expected.matrix.sum(), "not one class everywhere"


SIGNALS = """
import gc, os, signal, sys
from pathlib import Path
from msanet.inference.backends import open_openvino
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
networks = [open_openvino(Path(sys.argv[1])) for _ in range(2)]
while networks:
    networks.pop(0)
    gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_are_handled_after_openvino(exported: tuple[Path, dict[str, str]]) -> None:
    """They were not: after two networks, the next process that ended (SIGCHLD) ended this one."""
    done = subprocess.run([sys.executable, "-c", SIGNALS, exported[0] / "model.xml"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_int8_is_nearly_the_same_and_its_loss_is_printed(
    target: str, exported: tuple[Path, dict[str, str]], source: ShardSource
) -> None:
    folder, printed = exported
    ending = {"onnx": "onnx", "openvino": "xml"}[target]
    results = []
    for name in (f"model.{ending}", f"model.int8.{ending}"):
        model, found = load_model(folder / name, CPU)
        results.append(evaluate(model, source, PLAIN, found.mean, found.std))
    assert 0 < np.abs(results[0].matrix - results[1].matrix).sum() < 0.1 * results[0].matrix.sum()
    rows = [line.split() for line in printed[target].splitlines()]
    assert rows[2][:3] == [target, "fp32", f"{results[0].protocol_scores.scores.mean_iou:.2%}"]
    assert rows[3][:3] == [target, "int8", f"{results[1].protocol_scores.scores.mean_iou:.2%}"]
    ratio = float(rows[3][3]) / float(rows[2][3])
    assert f"{ratio:.1f}" == f"{float(rows[4][-4]):.1f}" or abs(ratio - float(rows[4][-4])) < 0.1
    assert "(95 % interval" in printed[target] and "7 images of 'val', resampled 2000 times" in printed[target]


def test_int8_files_have_integer_weights_and_no_others_are_left(exported: tuple[Path, dict[str, str]]) -> None:
    folder, _ = exported
    graph = onnx.load(folder / "model.int8.onnx").graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    makers = {output: node.op_type for node in graph.node for output in node.output}
    assert convolutions and {makers[node.input[1]] for node in convolutions} == {"DequantizeLinear"}
    names = {"model.onnx", "model.int8.onnx", "model.xml", "model.bin", "model.int8.xml", "model.int8.bin"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "model.int8.onnx").stat().st_size < 0.6 * (folder / "model.onnx").stat().st_size


def test_calibration_sees_what_the_network_gets(source: ShardSource) -> None:
    resized = PLAIN.model_copy(update={"resize": (20, 24), "flip": True})
    batches = [*calibration_images(source, 3, resized, None)]
    assert [tuple(batch.shape) for batch in batches] == 6 * [(1, 3, 20, 24)]
    assert batches[0].equal(batches[1].flip(3)) and batches[0].min() >= 0 and 100 < batches[0].max() < 256
    assert not batches[0].equal(batches[2])
    assert len([*calibration_images(source, 99, PLAIN, None)]) == 7
    with raises_user_error("MSA-INFER-762", setting="--size", mentions="36x44"):
        next(calibration_images(source, 3, PLAIN, (20, 24)))


def test_a_file_of_one_size_names_it(exported: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    graph = onnx.load(exported[0] / "model.onnx")
    for axis, value in zip(graph.graph.input[0].type.tensor_type.shape.dim[2:], (36, 48), strict=True):
        axis.ClearField("dim_param")
        axis.dim_value = value
    onnx.save(graph, tmp_path / "model.onnx")
    model, _ = load_model(tmp_path / "model.onnx", CPU)
    assert model(torch.zeros(1, 3, 36, 48)).shape == (1, 11, 36, 48)
    with raises_user_error("MSA-INFER-762", setting="evaluation.resize", mentions="36x48"):
        model(torch.zeros(1, 3, 36, 44))


def test_files_that_are_not_exported_networks_are_refused(
    exported: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    for ending in ("onnx", "xml"):
        with raises_user_error("MSA-INFER-760", mentions="does not exist"):
            load_model(tmp_path / f"missing.{ending}", CPU)
        data = (exported[0] / f"model.{ending}").read_bytes()
        for bad in (b"", b"no network", data[: len(data) // 2]):
            (tmp_path / f"bad.{ending}").write_bytes(bad)
            with raises_user_error("MSA-INFER-760", mentions=f"bad.{ending}"):
                load_model(tmp_path / f"bad.{ending}", CPU)
    shutil.copy(exported[0] / "model.xml", tmp_path / "alone.xml")  # without its weights
    with raises_user_error("MSA-INFER-760", mentions="alone.xml"):
        load_model(tmp_path / "alone.xml", CPU)
    graph = onnx.load(exported[0] / "model.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    with raises_user_error("MSA-INFER-761", mentions="foreign.onnx"):
        load_model(tmp_path / "foreign.onnx", CPU)
    graph.metadata_props.add(key="msanet_metadata", value='{"name": 3}')
    onnx.save(graph, tmp_path / "damaged.onnx")
    with raises_user_error("MSA-INFER-760", mentions="metadata"):
        load_model(tmp_path / "damaged.onnx", CPU)


@pytest.mark.parametrize(
    ("words", "code", "setting"),
    [
        (["--to", "torch", "--quantize", "int8"], "MSA-CLI-006", "--quantize"),
        (["--to", "torch", "--measure"], "MSA-CLI-006", "--measure"),
        (["--to", "onnx", "--quantize", "int8"], "MSA-CLI-007", "--data"),
        (["--to", "onnx", "--measure"], "MSA-CLI-007", "--data"),
        (["--to", "onnx", "--split", "val"], "MSA-CLI-006", "--split"),
        (["--to", "onnx", "--data", "shards"], "MSA-CLI-006", "--data"),
        (["--to", "onnx", "--calibration-images", "3"], "MSA-CLI-006", "--calibration-images"),
        (["--to", "openvino", "--out", "model.ov"], "MSA-CLI-008", "--out"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: list[str], code: str, setting: str, checkpoint: Path) -> None:
    with raises_user_error(code, setting=setting):
        export_job(["--checkpoint", str(checkpoint), *words])


def test_shards_are_read_before_anything_is_exported(
    checkpoint: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", str(checkpoint), "--to", "onnx", "--measure", "--out", str(tmp_path / "model.onnx")]
    for more, code in ((["--data", str(tmp_path)], None), (["--data", str(shards), "--split", "test"], "MSA-DATA")):
        with pytest.raises(ValueError) as caught:
            export([*words, *more])
        assert code is None or str(caught.value.code).startswith(code)  # type: ignore[attr-defined]
    assert not [*tmp_path.iterdir()] and not error_codes(capsys.readouterr().err)
