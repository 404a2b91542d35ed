"""`msanet push` and `pull` against a server that speaks the Hub's calls: what is committed, said, refused and left behind."""

import json
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from msanet.api.evaluation import run_evaluation
from msanet.cli.evaluate import evaluation_job
from msanet.cli.pull import main as pull
from msanet.cli.push import main as push
from msanet.evaluation.measurement import sha256_of
from msanet.models.io import load_network, save_network
from support.errors import raises_user_error
from support.hub_server import LARGE, TOKEN, HubServer
from support.metadata import metadata

pytest.importorskip("huggingface_hub", reason="talks to the Hub (extra `hub`)")
constants = import_module("huggingface_hub.constants")
REPO = "someone/streets"


@pytest.fixture(scope="module")
def evaluated(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights larger than what goes without LFS, and their evaluation."""
    folder, own = tmp_path_factory.mktemp("weights"), metadata("unet", width=0.05)
    torch.manual_seed(0)
    save_network(folder / "model.safetensors", own.build().state_dict(), own)
    assert (folder / "model.safetensors").stat().st_size > LARGE
    words = ["--checkpoint", str(folder), "--data", str(shards), "evaluation.flip=true", "evaluation.num_workers=0"]
    run_evaluation(evaluation_job(words))
    return folder


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "weights"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.location)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def front_matter(readme: bytes) -> dict[str, object]:
    return yaml.safe_load(readme.decode().split("---\n")[1])


def test_what_is_pushed_comes_back_and_is_used(
    server: HubServer, folder: Path, tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(["--checkpoint", str(folder), "--repo", REPO, "--license", "apache-2.0", "--private"]) == 0
    assert f"{server.location}/{REPO}/commit/" in capsys.readouterr().out and server.repositories[REPO].private
    names = {"model.safetensors", "metadata.json", "README.md", "evaluation-val.json", "evaluation-val.npz"}
    files = server.files(REPO)
    assert files.keys() == names and len(server.objects) >= 1
    assert ("PUT", f"/lfs/{sha256_of(folder / 'model.safetensors')}") in server.calls

    assert pull([REPO, "--out", str(tmp_path / "deep" / "model")]) == 0
    out = tmp_path / "deep" / "model"
    assert "unet with 11 classes of camvid, step 12" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files and [*out.parent.iterdir()] == [out]
    network, own = load_network(out / "model.safetensors", torch.device("cpu"))
    assert json.loads((out / "metadata.json").read_text()) == json.loads(own.model_dump_json())
    words = ["--checkpoint", str(out), "--data", str(shards), "--out", str(tmp_path / "again")]
    run_evaluation(evaluation_job([*words, "evaluation.flip=true", "evaluation.num_workers=0"]))
    again, pushed = (json.loads((place / "evaluation-val.json").read_text()) for place in (tmp_path / "again", out))
    assert again["confusion_matrix"] == pushed["confusion_matrix"]
    assert push(["--checkpoint", str(out), "--repo", "another/one"]) == 0, "scores belong to the same weights"


def test_the_readme_says_what_was_measured_and_how(server: HubServer, folder: Path, tmp_path: Path) -> None:
    (folder / "command.txt").write_text("msanet train camvid storage.token=hf_secret\n")
    file = tmp_path / "README.md"
    assert push(["--checkpoint", str(folder), "--repo", REPO, "--license", "mit", "--readme", str(file)]) == 0
    assert not server.calls, "nothing was pushed"
    text, scores = file.read_text(), json.loads((folder / "evaluation-val.json").read_text())
    front = front_matter(text.encode())
    assert front["license"] == "mit" and front["library_name"] == "msanet" and front["metrics"] == ["mean_iou"]
    result = front["model-index"][0]["results"][0]  # type: ignore[index]
    assert result["dataset"] == {"type": "camvid", "name": "camvid", "split": "val"}
    assert result["metrics"][0] == {"type": "mean_iou", "name": "mIoU", "value": scores["mean_iou"]}
    low, high = scores["mean_iou_interval"]
    assert f"| mIoU | {scores['mean_iou']:.2%} | {low:.2%} to {high:.2%} |" in text
    origin = scores["measured"]
    assert origin["weights_sha256"] == sha256_of(folder / "model.safetensors") and origin["settings"] == {"flip": True}
    for shown in (
        *(
            origin["dataset_digest"],
            "Protocol: default",
            "evaluation.flip=True",
            origin["versions"]["torch"],
            "7 images",
        ),
        *(
            "| 0 | 0 | sky | `#808080` |",
            f"msanet pull {REPO} --out model",
            "msanet train camvid",
            "evaluation.flip=true",
        ),
    ):
        assert shown in text, shown
    assert "hf_secret" not in text and TOKEN not in text


def test_front_matter_without_license_and_scores(server: HubServer, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    assert push(["--checkpoint", str(folder), "--repo", REPO, "--no-scores", "--readme", str(file)]) == 0
    assert front_matter(file.read_bytes()).keys() == {"library_name", "pipeline_tag", "tags"}
    assert "## Scores" not in file.read_text() and "## Classes" in file.read_text()


def test_scores_of_other_weights_are_not_shown(server: HubServer, folder: Path) -> None:
    words = ["--checkpoint", str(folder), "--repo", REPO]
    own = metadata("unet", width=0.05)
    torch.manual_seed(1)
    save_network(folder / "model.safetensors", own.build().state_dict(), own)
    with raises_user_error("MSA-HUB-007", setting="--no-scores", mentions="evaluation-val.json"):
        push(words)
    for content in ({}, {"measured": {"step": 11}}, {"measured": 3}):
        (folder / "evaluation-val.json").write_text(json.dumps(content))
        with raises_user_error("MSA-HUB-007", setting="--no-scores"):
            push(words)
    assert not server.calls
    assert push([*words, "--no-scores"]) == 0 and server.files(REPO).keys() == {
        "model.safetensors",
        "metadata.json",
        "README.md",
    }


def test_a_validation_of_the_training_belongs_to_the_step(server: HubServer, folder: Path, tmp_path: Path) -> None:
    """Its weights were in memory, so it has no hash of a file."""
    path = folder / "evaluation-val.json"
    content = json.loads(path.read_text())
    content["measured"] |= {"weights_sha256": None, "step": 12}
    path.write_text(json.dumps(content))
    words = ["--checkpoint", str(folder), "--repo", REPO, "--readme", str(tmp_path / "README.md")]
    assert push(words) == 0 and "## Scores on 'val'" in (tmp_path / "README.md").read_text()
    content["measured"]["step"] = 6
    path.write_text(json.dumps(content))
    with raises_user_error("MSA-HUB-007", mentions="step 6"):
        push(words)


def test_a_push_that_fails_half_way_is_repeated(server: HubServer, folder: Path) -> None:
    words = ["--checkpoint", str(folder), "--repo", REPO, "--revision", "tries"]
    server.fail = {"/commit/": 500}
    with raises_user_error("MSA-HUB-005", mentions="nothing was committed"):
        push(words)
    assert server.objects and not server.files(REPO, "tries")
    server.fail, server.calls = {}, []
    assert push(words) == 0
    assert not [path for method, path in server.calls if method == "PUT"], "what was uploaded is not uploaded again"
    assert "model.safetensors" in server.files(REPO, "tries") and not server.files(REPO, "main")
    (folder / "evaluation-val.json").rename(folder / "old.json")
    server.commit(REPO, {**server.files(REPO, "tries"), "notes.md": b"of the owner"}, "tries")
    assert push([*words, "--no-scores"]) == 0
    assert server.files(REPO, "tries").keys() == {"model.safetensors", "metadata.json", "README.md", "notes.md"}


@pytest.mark.parametrize(
    ("fail", "code"),
    [
        ({"/repos/create": 403}, "MSA-HUB-002"),
        ({"/preupload/": 404}, "MSA-HUB-003"),
        ({"/commit/": 413}, "MSA-HUB-005"),
    ],
)
def test_the_hubs_refusals_of_a_push(fail: dict[str, int], code: str, server: HubServer, folder: Path) -> None:
    server.fail = fail
    with raises_user_error(code, mentions=REPO):
        push(["--checkpoint", str(folder), "--repo", REPO])


def test_a_license_or_visibility_that_the_hub_refuses(server: HubServer, folder: Path) -> None:
    with raises_user_error("MSA-HUB-005", mentions="license"):
        push(["--checkpoint", str(folder), "--repo", REPO, "--license", "unknown-one"])
    server.commit("someone/public", {})
    with raises_user_error("MSA-HUB-010", setting="--private"):
        push(["--checkpoint", str(folder), "--repo", "someone/public", "--private"])
    assert not server.files("someone/public")


def test_the_hubs_refusals_of_a_pull(
    server: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--out", str(tmp_path / "out")]
    server.commit(REPO, {"README.md": b"no network", "config.json": b"{}", "../model.safetensors": b""})
    for name, code in (("someone/else", "MSA-HUB-003"), (f"{REPO}@v9", "MSA-HUB-003"), (REPO, "MSA-HUB-006")):
        with raises_user_error(code):
            pull([name, *words])
    server.repositories[REPO].private = True
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
    with raises_user_error("MSA-HUB-002"):
        pull([REPO, *words])
    assert {path.name for path in tmp_path.iterdir()} <= {"weights", "cache"}


def test_what_arrives_is_not_trusted(server: HubServer, folder: Path, tmp_path: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    for content in (b"import os", weights[: len(weights) // 2]):
        server.commit(REPO, {"model.safetensors": content})
        with raises_user_error("MSA-HUB-006"):
            pull([REPO, "--out", str(tmp_path / "out")])
    files = {"model.safetensors": weights, "modeling.py": b"raise SystemExit", "evaluation-../x.json": b""}
    server.commit(REPO, files)
    server.damage = True
    with raises_user_error("MSA-HUB-006", mentions="sha256"):
        pull([REPO, "--out", str(tmp_path / "out")])
    assert not [*tmp_path.glob("out*")]
    server.damage = False
    assert pull([REPO, "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    with raises_user_error("MSA-HUB-008", setting="--out"):
        pull([REPO, "--out", str(tmp_path / "out")])


def test_a_pull_of_a_revision_goes_on_where_it_was(server: HubServer, folder: Path, tmp_path: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    first = server.commit(REPO, {"README.md": b"first", "model.safetensors": weights})
    server.commit(REPO, {"README.md": b"second", "model.safetensors": weights})
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "evaluation-test.json").write_text("of another pull")
    server.fail = {f"resolve/{first}/README.md": 403}
    with raises_user_error("MSA-HUB-002"):
        pull([f"{REPO}@{first}", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    server.fail = {}
    assert pull([f"{REPO}@{first}", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "README.md").read_bytes() == b"first"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.safetensors"]


def test_without_a_connection_or_the_package(
    server: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for command, words in (
        (push, ["--checkpoint", str(folder), "--repo", REPO]),
        (pull, [REPO, "--out", str(tmp_path / "out")]),
    ):
        with raises_user_error("MSA-HUB-004", mentions="127.0.0.1:9"):
            command(words)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with raises_user_error("MSA-HUB-009", mentions="msanet[hub]"):
        pull([REPO, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("name", ["streets", "a/b/c", "a/..", "/b", "a/b@x", "a/b c", "", "https://huggingface.co/a/b"])
def test_names_that_are_no_repository(name: str, tmp_path: Path) -> None:
    with raises_user_error("MSA-HUB-001", setting="--repo"):
        push(["--checkpoint", str(tmp_path), "--repo", name])
    if name != "a/b@x":
        with raises_user_error("MSA-HUB-001", setting="REPOSITORY"):
            pull([name, "--out", str(tmp_path / "out")])


def test_other_options_that_the_hub_would_refuse(tmp_path: Path) -> None:
    for more in (["--license", "My License"], ["--revision", "../x"], ["--revision", ""]):
        with raises_user_error("MSA-HUB-001", setting=more[0]):
            push(["--checkpoint", str(tmp_path), "--repo", REPO, *more])
