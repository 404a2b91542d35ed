"""A process that has imported the libraries once, and is forked for each command: what starts takes milliseconds.

with Forks("transformers") as forks:
    code, output = forks.run(["msanet", "recipes"], folder)
"""

import contextlib
import importlib
import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Self

from conftest import REPOSITORY


class Forks:
    """Runs `msanet COMMAND ...` and `python FILE`, each as a process of its own.

    Args:
        modules: What the first process imports, besides msanet's training.
    """

    def __init__(self, *modules: str) -> None:
        path = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests")))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "support.forked", *modules]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def run(self, words: list[str], folder: Path) -> tuple[int, str]:
        """Exit code, and stdout and stderr together."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([words, str(folder)]) + "\n")
        self.process.stdin.flush()
        code = json.loads(self.process.stdout.readline())
        return code, (folder / "output.txt").read_text(encoding="utf-8", errors="replace")


def _run(words: list[str], folder: str) -> int:
    """In the forked process."""
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    try:
        if words[0] == "python":
            sys.argv, sys.path[0] = words[1:], folder
            runpy.run_path(words[1], run_name="__main__")
            return 0
        from msanet.cli.main import main

        return main(words[1:])
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries write to stdout when they are imported
    for module in ("support.torchvision_shim.sitecustomize", "msanet.training.train", *sys.argv[1:]):
        with contextlib.suppress(ImportError):  # the command says what is missing
            importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = _run(*json.loads(line))
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
