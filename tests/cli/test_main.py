"""`msanet`: its help, its errors, how fast it starts, and that every way to a command leads to the same."""

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from conftest import REPOSITORY
from msanet.cli import commands
from msanet.cli.commands import COMMANDS
from msanet.cli.main import EXIT_INTERRUPTED, main
from support.errors import error_codes


def start(*words: str, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, *words]
    return subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=REPOSITORY, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_has_its_purpose_and_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main([command, "--help"]) == 0
    except SystemExit as ended:
        assert ended.code == 0
    shown = capsys.readouterr().out
    assert f"usage: msanet {command}" in shown and COMMANDS[command][1:] in shown
    assert f"Example:\n  msanet {command}" in shown
    assert (REPOSITORY / "msanet" / "cli" / f"{command}.py").is_file()


def test_help_lists_all_commands_with_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for command, purpose in COMMANDS.items():
        assert lines.count(next(line for line in lines if line.split()[:1] == [command])) == 2
        assert any(line.startswith(f"  {command} ") and line.endswith(purpose) for line in lines)


def test_the_list_is_read_without_torch_and_at_once() -> None:
    code = "import sys; from msanet.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    times = []
    for _ in range(3):
        begun = time.monotonic()
        assert start("-c", code).wait() == 0
        times.append(time.monotonic() - begun)
    assert min(times) < 0.5


@pytest.mark.parametrize(
    ("word", "mentions"),
    [("trian", "did you mean 'train'?"), ("xyz", "known are: pack, verify, inspect, generate, train")],
)
def test_an_unknown_command_names_the_near_one_or_all(
    word: str, mentions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([word])
    said = capsys.readouterr().err
    assert error_codes(said) == ["MSA-CLI-002"] and mentions in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "msanet", "train"],
        ["-m", "msanet", "--local_rank=0", "train"],  # as `deepspeed --module msanet train` starts it
        ["launcher/train.py", "--local_rank=0"],
        ["-m", "msanet", "--local_rank=0", "evaluate"],
        ["launcher/evaluate.py"],
        ["launcher/predict.py"],
        ["launcher/export.py"],
        ["jobs/sweep.py"],
        ["-m", "sharding", "voc"],
        ["-m", "sharding", "synthetic"],
    ],
    ids=" ".join,
)
def test_every_way_to_a_command_ends_with_its_errors(words: list[str]) -> None:
    out, err = (process := start(*words, "--no-such-option")).communicate(timeout=120)
    assert process.returncode == 2 and error_codes(err) == ["MSA-CLI-001"] and not out
    assert "Traceback" not in err and err.count("\n") == 1


def test_bad_input_of_a_job_is_reported_by_rank_0_alone() -> None:
    for rank, count in (("0", 1), ("3", 0)):
        job = {"RANK": rank, "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        process = start("launcher/train.py", "nowhere", env={**os.environ, **job})
        assert process.communicate(timeout=120)[1].count("\n") == count and process.returncode == 2


def test_an_interrupt_while_importing_ends_the_process_without_a_traceback(tmp_path: Path) -> None:
    """Slow imports, of a library that catches whatever is raised in it."""
    (tmp_path / "torch.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'importing')!r}).touch()\n"
        "try:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    for words in (["launcher/train.py"], ["-m", "msanet", "train"], ["-m", "msanet", "export"]):
        process = start(*words, env={**os.environ, "PYTHONPATH": paths})
        while not (tmp_path / "importing").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        (tmp_path / "importing").unlink()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "") and process.returncode == -signal.SIGINT


def test_an_interrupt_at_work_ends_with_130_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    for command in ("pack", "verify"):
        monkeypatch.setattr(import_module(f"msanet.cli.{command}"), "main", interrupted)
        assert main([command]) == EXIT_INTERRUPTED == 130
        said = capsys.readouterr().err
        assert said.startswith("interrupted") and said.count("\n") == 1
        assert ("again to continue" in said) == (command in commands.RESUMABLE)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_log_level_is_that_of_the_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import logging

    for level, count in (("info", 1), ("error", 0)):
        assert main(["recipes", "camvid", "--log-level", level]) == 0
        capsys.readouterr()
        logging.getLogger("msanet.somewhere").warning("a warning")
        assert capsys.readouterr().err.count("warning: a warning") == count
