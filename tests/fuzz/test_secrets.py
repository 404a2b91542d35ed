"""What lets others in reaches no file of a run and no line of its log."""

import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fuzz.hostile import outcome
from msanet.cli.evaluate import evaluation_job
from msanet.config import StorageConfig, load_config
from msanet.data.storage import open_storage
from msanet.errors import UserError
from msanet.secrets import MASK, masked, without_secrets

ROOT = Path(__file__).parent.parent.parent
SECRET = "hunter2feedc0de"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    authorised = 0


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.authorised += "Authorization" in self.headers
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _run(*words: str | Path, tmp_path: Path) -> str:
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    environment |= {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_no_file_or_line_of_a_run_holds_the_password(shards: Path, tmp_path: Path) -> None:
    """Training, evaluation and its failure, over HTTP with a password in the address."""
    server = _Server(("127.0.0.1", 0), partial(_Handler, directory=str(shards)))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address, run = f"http://me:{SECRET}@127.0.0.1:{server.server_port}", tmp_path / "run"
    settings = [
        *(f"data.path={address}", f"run.dir={run}", "data.crop=[32,32]", "data.num_workers=0", "model.width=0.05"),
        *(
            "trainer.steps=1",
            "trainer.global_batch_size=2",
            "evaluation.num_workers=0",
            f"storage.cache_dir={tmp_path / 'cache'}",
        ),
        f"deepspeed.comet.api_key={SECRET}",
    ]
    try:
        shown = _run("launcher/train.py", *settings, tmp_path=tmp_path)
        assert server.authorised > 2
        shown += _run(
            "launcher/evaluate.py", "--run", run, "--data", address, "--out", run / "again", tmp_path=tmp_path
        )
        shown += str(
            outcome(open_storage(f"{address}/absent", StorageConfig(cache_dir=tmp_path / "cache")).read_file, "x", 9)
        )
        refused = str(outcome(open_storage, evaluation_job(["--run", str(run)]).data.path or ""))
        assert refused.startswith(f"'http://{MASK}@127.0.0.1") and "give the complete address again" in refused
    finally:
        server.shutdown()
        server.server_close()
    assert SECRET not in shown
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.yaml", "command.txt", "report.html", "state.json", "evaluation-val.json"} <= {
        path.name for path in files
    }
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["data"]["path"].startswith(f"http://{MASK}@127.0.0.1") and kept["deepspeed"]["comet"]["api_key"] == MASK


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@host/x",
        f"s3://KEY:{SECRET}@bucket/x",
        f"https://host/x?X-Amz-Signature={SECRET}",
        f"https://host/x?sv=1&sig={SECRET}",
        f"https://host/x?token={SECRET} and more",
        f"deepspeed.api_key={SECRET}",
        f"'password': '{SECRET}'",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"wandb:\n  api_key: {SECRET}\n",
    ],
)
def test_secrets_in_text_are_masked(text: str) -> None:
    shown = without_secrets(text)
    assert SECRET not in shown and MASK in shown and without_secrets(shown) == shown


def test_keys_of_amazon_are_known_by_their_form() -> None:
    assert without_secrets("found AKIAIOSFODNN7EXAMPLE here") == f"found {MASK} here"


def test_plain_sentences_stay_as_they_are() -> None:
    for text in (
        "NoCredentialsError: Unable to locate credentials; check the credentials and permissions",
        "data.path: /data/a@b, tokens of 3 kinds; s3://bucket/shards; lr: 1e-3",
    ):
        assert without_secrets(text) == text


def test_nested_settings_are_masked() -> None:
    tree = {"wandb": {"api_key": SECRET, "team": "a"}, "paths": [f"http://me:a {SECRET}@host"], "token": 3}
    assert masked(tree) == {"wandb": {"api_key": MASK, "team": "a"}, "paths": [f"http://{MASK}@host"], "token": 3}


@given(
    st.sampled_from(["http", "https", "s3", "gs", "ftp"]),
    st.sampled_from(["me:", "me", ":", "a/b:", "a@b:", "me?:", "me#:"]),
    st.sampled_from(["", "/", "?", "#", "@", ":", " ", "12/", "12?", "%2F", "[", "\\"]),
    st.sampled_from(["host/x", "host:80/x", "host:x/y", "[::1/x", "/x", "", "bucket/a?b=c"]),
)
def test_no_address_shows_its_password(scheme: str, user: str, odd: str, place: str) -> None:
    address = f"{scheme}://{user}{odd}{SECRET}@{place}"
    storage = outcome(open_storage, address, StorageConfig())
    shown = str(storage) if isinstance(storage, UserError) else storage.location
    assert SECRET not in shown
    assert SECRET not in load_config(None, [f"data.path='{address}'"]).to_yaml()
