"""A process joins its job whatever has started it, or is refused in one line; never does one of several train alone."""

import os
from collections.abc import Iterator

import pytest

from msanet.cli.main import is_first_rank, main
from msanet.cli.parser import new_parser
from msanet.distributed.launcher_environment import resolve_rank
from support.errors import error_codes, raises_user_error

ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "4242"}
ADDRESS = {"MASTER_ADDR": "a", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NODELIST": "node[07-08,11],gpu1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1,1",
    "SLURM_JOB_ID": "4711",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ.keys() & {*ALONE, "LOCAL_WORLD_SIZE"}:
        monkeypatch.delenv(name)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("environment", "more"),
    [
        ({}, ALONE),
        ({"MASTER_PORT": "29500"}, {**ALONE, "MASTER_PORT": "29500"}),
        ({"MASTER_ADDR": "elsewhere"}, {**ALONE, "MASTER_ADDR": "elsewhere"}),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
        ({"WORLD_SIZE": "1"}, ALONE),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, ALONE),
        ({"SLURM_NTASKS": "4"}, ALONE),  # the shell of salloc
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, ALONE),  # srun --pty
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, ALONE),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "RANK": "0", "WORLD_SIZE": "1"}, ALONE),
    ],
)
def test_a_process_that_is_alone_needs_no_variables(environment: dict[str, str], more: dict[str, str]) -> None:
    found = {**environment, **resolve_rank(environment, 4242)}
    assert {name: found[name] for name in ALONE} == more


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **ADDRESS}, {}),
        ({"RANK": "1", "WORLD_SIZE": "2", **ADDRESS}, {"LOCAL_RANK": "0"}),
        (
            SRUN,
            {
                "RANK": "5",
                "WORLD_SIZE": "6",
                "LOCAL_RANK": "1",
                "LOCAL_WORLD_SIZE": "1",
                "MASTER_ADDR": "node07",
                "MASTER_PORT": "19711",
            },
        ),
        (
            {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", **ADDRESS},
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        ),
        (
            {
                "OMPI_COMM_WORLD_RANK": "1",
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                **ADDRESS,
            },
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", **ADDRESS}, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}),
    ],
)
def test_a_rank_joins_under_every_launcher(environment: dict[str, str], found: dict[str, str]) -> None:
    assert resolve_rank(environment, 4242) == found


@pytest.mark.parametrize(
    ("environment", "setting"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a"}, "MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": "29500"}, "MASTER_ADDR"),
        ({"RANK": "0", **ADDRESS}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2", **ADDRESS}, "RANK"),
        ({"LOCAL_RANK": "0"}, "RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2", **ADDRESS}, "RANK"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "MASTER_ADDR"),
        ({name: value for name, value in SRUN.items() if name != "SLURM_JOB_ID"}, "MASTER_PORT"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "MASTER_ADDR"),
    ],
)
def test_one_of_several_that_cannot_find_the_others_is_refused(environment: dict[str, str], setting: str) -> None:
    with raises_user_error("MSA-DIST-401", setting):
        resolve_rank(environment, 4242)


@pytest.mark.parametrize(
    "wrong",
    [
        {"RANK": ""},
        {"RANK": "-1"},
        {"WORLD_SIZE": "0"},
        {"LOCAL_RANK": "x"},
        {"MASTER_PORT": "abc"},
        {"MASTER_PORT": "0"},
    ],
)
def test_a_variable_that_is_not_a_number_is_named(wrong: dict[str, str]) -> None:
    with raises_user_error("MSA-DIST-402", next(iter(wrong))):
        resolve_rank({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", **ADDRESS, **wrong}, 4242)


@pytest.mark.parametrize(
    ("environment", "code"),
    [({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "MSA-DIST-401"), ({"RANK": ""}, "MSA-DIST-402")],
)
def test_the_command_ends_with_one_line_on_every_process(
    environment: dict[str, str], code: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main(["train", "data.path=x", "run.dir=y"])
    said = capfd.readouterr().err
    assert end.value.code == 2 and error_codes(said) == [code] and said.count("\n") == 1


def test_before_the_session_rank_0_of_a_whole_environment_speaks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", **ADDRESS}.items():
        monkeypatch.setenv(name, value)
    assert not is_first_rank("error [MSA-CONFIG-004]")
    monkeypatch.delenv("MASTER_PORT")
    assert is_first_rank("error [MSA-CONFIG-004]")


def test_both_spellings_of_the_launchers_option_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--local_rank=1", "--local-rank=1"):
        assert new_parser("evaluate", "").parse_args([option]).local_rank == 1
        with pytest.raises(SystemExit) as end:  # first, as where a launcher starts `-m msanet`
            main([option, "evaluate", "--help"])
        assert end.value.code == 0, capsys.readouterr()
