"""Settings, DeepSpeed's JSON and classes files, whatever bytes they are made of."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fuzz.hostile import NAMES, altered, damaged, outcome, wrong_values
from msanet.cli.train import _read_json as read_json
from msanet.config import Config, load_config, settings
from msanet.documents import MAX_BYTES, parse_json, parse_yaml
from msanet.errors import UserError
from sharding.readers.folder import _load as load_classes
from support.errors import raises_user_error

TREE: dict[str, Any] = {
    **yaml.safe_load(Config().to_yaml()),
    "deepspeed": {"zero_optimization": {"reduce_bucket_size": 1000}, "tags": [1, "a"]},
}
CLASSES = {"name": "mine", "classes": [{"id": 0, "name": "field"}, {"id": 1, "name": "road", "color": [9, 9, 9]}]}
ODD = [
    *(b"[" * 1000, b"{a: " * 10**4, b"- " * 10**5, b"&a [*a]", b"*a", b"a: &a {<<: *a}", b"&a {a: 1, <<: *a}"),
    *(
        b"2001-99-99",
        b"!!timestamp x",
        b"!!int x",
        b"!!float x",
        b"!!bool x",
        b"0x_",
        b"0b_",
        b"1:" * 9999 + b"1",
        b"9" * 9999,
    ),
    *(
        b"!!binary x",
        b"!!set {a}",
        b"!!omap [a: 1]",
        b"!!pairs [a: 1]",
        b"!!python/object/apply:os.system [ls]",
        b"? [a]\n: b",
    ),
    *(
        b"=",
        b"<<: 1",
        b"<<: [1]",
        b"%YAML 9.9\n---\n",
        b"--- a\n--- b",
        b"\xff\xfe",
        b"\x00",
        b'"\\ud800"',
        b"a: b: c",
        b"\t",
    ),
]
LAUGHS = b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 60))
MERGES = b"a0: &a0 {x: 1}\n" + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d]}\n" % (n, n, n - 1, n - 1) for n in range(1, 60))

yaml_texts = (
    st.binary(max_size=200)
    | st.sampled_from(ODD)
    | st.text(alphabet="{}[]:,-?!&*<|>'\"#%@`ab01.e \n\t~", max_size=60).map(str.encode)
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "run.yaml"


@given(
    text=altered(TREE)
    | damaged(Config().to_yaml().encode())
    | yaml_texts
    | yaml_texts.map(lambda text: b"deepspeed: " + text)
)
def test_a_config_is_read_or_refused_in_a_sentence(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    config = outcome(load_config, path)
    if isinstance(config, Config):
        path.write_text(config.to_yaml(), errors="replace")
        assert isinstance(outcome(load_config, path), Config | UserError)
    else:
        assert isinstance(config, UserError)


NAMES_OF_SETTINGS = [name for name, *_ in settings()]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*NAMES_OF_SETTINGS, "deepspeed.a", "model.width", "a.b", "data", ".", "", "x." * 9999]),
            st.sampled_from(["=", "=", "=", "", "=="]),
            wrong_values.map(json.dumps) | yaml_texts.map(lambda text: text.decode("latin-1")),
        ).map("".join),
        max_size=3,
    )
)
def test_overrides_are_taken_or_refused_in_a_sentence(words: list[str]) -> None:
    config = outcome(load_config, None, words)
    assert isinstance(config, UserError) or parse_yaml(config.to_yaml())


@given(
    text=altered(TREE["deepspeed"])
    | st.binary(max_size=200)
    | st.sampled_from([b'{"a": NaN}', b'{"a": 1, "a": 2}', b"[1]", b"\xff", b"[" * 10**5])
)
def test_deepspeeds_json_is_taken_or_refused_in_a_sentence(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    found = outcome(read_json, path)
    assert isinstance(found, UserError) or isinstance(outcome(load_config, None, [], {"deepspeed": found}), Config)


@given(text=altered(CLASSES) | yaml_texts)
def test_a_classes_file_is_read_or_refused_in_a_sentence(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    found = outcome(load_classes, path)
    assert isinstance(found, UserError) or 1 <= len(found.classes) < 255


@pytest.mark.parametrize(
    "bomb",
    [LAUGHS, MERGES, b"x: [" + b"1," * (MAX_BYTES // 2 - 9) + b"]", b" " * (MAX_BYTES + 1), b"[" * (MAX_BYTES - 1)],
    ids=["aliases", "merges", "many", "long", "deep"],
)
def test_a_bomb_is_refused_before_it_is_built(bomb: bytes, path: Path) -> None:
    path.write_bytes(bomb)
    begun = time.monotonic()
    with raises_user_error("MSA-CONFIG-002"):
        load_config(path)
    assert time.monotonic() - begun < 10
    with pytest.raises(ValueError, match="."):
        parse_json(bomb)


def test_an_alias_inside_a_value_with_a_name_is_refused(path: Path) -> None:
    for text in ("deepspeed: &a [*a]", "deepspeed: {x: &a {y: [*a]}}", "deepspeed: {x: &a [1], y: &b [*a], z: *b}"):
        path.write_text(text)
        with raises_user_error("MSA-CONFIG-002"):
            load_config(path)


def test_merges_of_many_keys_stay_small(path: Path) -> None:
    """Keys times merges is what they copy."""
    keys = ", ".join(f"k{number}: 1" for number in range(4000))
    path.write_text("a: &a {" + keys + "}\nb:\n" + "".join("  - {<<: *a}\n" for _ in range(200)))
    with raises_user_error("MSA-CONFIG-002", mentions="20000"):
        load_config(path)


def test_a_key_that_stands_twice_is_refused(path: Path) -> None:
    path.write_text("trainer: {steps: 7}\ndata: {}\ntrainer: {global_batch_size: 2}\n")
    with raises_user_error("MSA-CONFIG-002", mentions="'trainer' is there twice in line 3"):
        load_config(path)
    path.write_text("x: &a {steps: 7}\ntrainer:\n  <<: *a\n  steps: 8\n")
    assert parse_yaml(path.read_text())["trainer"] == {"steps": 8}, "a merge gives way to what is written"


def test_a_number_beyond_all_is_refused() -> None:
    for text in ("[1e999]", "[NaN]", "[-Infinity]"):
        with pytest.raises(ValueError, match="."):
            parse_json(text)
    with pytest.raises(ValueError, match="."):
        parse_yaml("1:" * 9999 + "1")  # of base 60


def test_honest_aliases_are_taken(path: Path) -> None:
    path.write_text("data: {resize: &size [8, 16], crop: *size}\nevaluation: {resize: *size}\n")
    config = load_config(path)
    assert config.data.resize == config.data.crop == config.evaluation.resize == (8, 16)


def test_an_address_in_a_bad_setting_shows_no_password(path: Path) -> None:
    for words in (
        ["https://me:hunter2@host/x"],
        ["data=https://me:hunter2@host/x"],
        ["data.crop=https://me:hunter2@host"],
        ["data.mean=[https://me:hunter2@host"],
    ):
        assert "hunter2" not in str(outcome(load_config, None, words)), words
    path.write_text("data: {path: https://me:hunter2@host/x\n")
    assert "hunter2" not in str(outcome(load_config, path))


def test_names_are_not_trusted_as_settings() -> None:
    assert all(isinstance(outcome(load_config, None, [f"{name}=1"]), UserError) for name in NAMES)
