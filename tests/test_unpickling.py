"""No file runs code: nothing here unpickles what comes from a disk or a network, but for tensors alone."""

import ast
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from msanet.errors import UserError
from msanet.models import build_model
from msanet.models.io import load_network, load_weights
from msanet.models.pretrained import initialize
from msanet.run_layout import CheckpointLayout
from msanet.training.checkpoint.io import latest_valid, read_checkpoint, write_checkpoint
from support.errors import raises_user_error
from support.small_runs import toy_checkpoint

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("msanet", "sharding", "launcher", "jobs") for path in (ROOT / folder).rglob("*.py"))
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
HARMLESS = {"pickle.UnpicklingError", "pickle.PicklingError"}


def dangers(source: str) -> list[str]:
    """Calls that could run code out of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            found += [f"{node.lineno}: from {node.module} import"]
        if isinstance(node, ast.Import):
            found += [
                f"{node.lineno}: {alias.name} as {alias.asname}" for alias in node.names if alias.asname in UNPICKLERS
            ]
            found += [
                f"{node.lineno}: {one.name} renamed" for one in node.names if one.name in UNPICKLERS and one.asname
            ]
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            is_unpickler = name.split(".")[0] in UNPICKLERS and name not in HARMLESS
            if is_unpickler or name.endswith(
                (".read_pickle", ".load_checkpoint", "yaml.unsafe_load", "yaml.full_load")
            ):
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in ("eval", "exec"):
                found.append(f"{node.lineno}: {name}")
            if name == "torch.load" and given.get("weights_only") != "True":
                found.append(f"{node.lineno}: torch.load without weights_only=True")
            if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
                found.append(f"{node.lineno}: np.load with pickles")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import load",
        "import pickle as harmless",
        "torch.load(file)",
        "torch.load(file, weights_only=trusted)",
        "np.load(file, allow_pickle=True)",
        "engine.load_checkpoint(folder)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert dangers(source)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled(path: Path) -> None:
    found = dangers(path.read_text())
    if path == ROOT / "msanet/api/local_ranks.py":  # a call of msanet.train, in a folder that its user alone may read
        found = [danger for danger in found if danger.split()[-1] not in ("pickle.dumps", "pickle.loads")]
    assert found == []


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.place,)


def bombs(folder: Path, place: Path) -> list[Path]:
    """A pickle of its own, and torch's new and old formats."""
    paths = [folder / f"bomb-{kind}.pth" for kind in ("pickle", "zip", "legacy")]
    paths[0].write_bytes(pickle.dumps({"classifier.weight": Bomb(place)}))
    torch.save({"state_dict": Bomb(place)}, paths[1])
    torch.save({"state_dict": Bomb(place)}, paths[2], _use_new_zipfile_serialization=False)
    return paths


def test_a_pickle_that_runs_code_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.is_dir(), "the bomb is one"
    mark.rmdir()
    model = build_model("msanet", 2, width=0.125)
    for number, bomb in enumerate(bombs(tmp_path, mark)):
        with raises_user_error("MSA-MODEL-018", setting="model.pretrained"):
            initialize(model, bomb, ("a", "b"))
        with raises_user_error("MSA-MODEL-008"):
            load_weights(bomb)
        renamed = bomb.with_suffix(".safetensors")
        shutil.copy(bomb, renamed)
        with pytest.raises(UserError):
            initialize(model, renamed, ("a", "b"))
        with pytest.raises(UserError):
            load_network(renamed, torch.device("cpu"))
        for victim in (CheckpointLayout.MODEL, "optimizer.safetensors", "rng.safetensors", "state.json", "files.json"):
            folder = write_checkpoint(tmp_path / f"{number}-{victim}", toy_checkpoint(), keep=1)
            shutil.copy(bomb, folder / victim)
            assert latest_valid(folder.parent) is None
            if victim != "files.json":
                with pytest.raises(UserError):  # also where nobody has checked the hashes
                    read_checkpoint(folder)
    assert not mark.exists()
