"""Two hosts on this machine, an sshd in each, and `deepspeed --hostfile` jobs on them.

A host is a set of namespaces (network, processes, mounts, name) that end with its first process, and that one with the
test's process, however it ends: no address, name or process is left or seen outside. `deepspeed` stops a job by `pkill -f`
on every host; here that reaches none but the host's own. Root's home is a new one, with keys and without shell settings.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from conftest import REPOSITORY

TRAIN = str(REPOSITORY / "launcher" / "train.py")
PACKAGES = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "pdsh": "pdsh",
    "pkill": "procps",
    "unshare": "util-linux",
}

NAMESPACES = ["--net", "--pid", "--uts", "--mount", "--mount-proc", "--fork", "--kill-child"]
NEW_HOST = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES]
FIRST_PROCESS = """
mount -t tmpfs tmpfs /run; mkdir -m 755 /run/sshd
for file in hosts passwd; do mount --bind {folder}/$file /etc/$file; done
hostname {name}; ip link set lo up
echo up; read its_address_is_set
exec {sshd} -D -e -f {folder}/{name}.conf 2>{folder}/{name}.log
"""
SSHD = """
ListenAddress {address}
HostKey {folder}/.ssh/id_ed25519
AuthorizedKeysFile {folder}/.ssh/id_ed25519.pub
PasswordAuthentication no
PidFile none
StrictModes no
UseDNS no
UsePAM no
"""
SSH = """
StrictHostKeyChecking no
LogLevel ERROR
ServerAliveInterval 5
ServerAliveCountMax 3
"""


class Host:
    """A host with its own name, address and processes; its files are this machine's."""

    def __init__(self, folder: Path, number: int) -> None:
        self.name, self.address, self.peer = f"host-{number}", f"10.0.0.{number}", f"10.0.0.{3 - number}"
        (folder / f"{self.name}.conf").write_text(SSHD.format(address=self.address, folder=folder))
        self._log = folder / f"{self.name}.log"
        script = FIRST_PROCESS.format(folder=folder, name=self.name, sshd=shutil.which("sshd"))
        cores = sorted(os.sched_getaffinity(0))  # half for each host: a rank takes all that it finds
        own = ",".join(map(str, cores[number - 1 :: 2] or cores))
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            ["taskset", "-c", own, *NEW_HOST, "sh", "-ec", script], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        assert self._process.stdout and self._process.stdin and self._process.stderr
        assert self._process.stdout.readline() == "up\n", self._process.stderr.read()
        self.first = psutil.Process(self._process.pid).children()[0].pid
        self._namespace = os.readlink(f"/proc/{self.first}/ns/pid")

    def plug_in(self) -> None:
        """Set the address of its end of the cable, and start its sshd."""
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.close()
        deadline = time.monotonic() + 30
        while not (self._log.is_file() and "listening" in self._log.read_text()):
            assert time.monotonic() < deadline and self._process.poll() is None, f"no sshd on {self.name}"
            time.sleep(0.05)

    def inside(self, *command: object) -> list[str]:
        """What runs `command` on this host."""
        return ["nsenter", "-t", str(self.first), "-n", "-p", "-u", "-m", "--", *map(str, command)]

    def run(self, *command: object) -> None:
        """Run a command on this host to its end."""
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command} on {self.name}: {done.stderr}"

    def processes(self) -> dict[psutil.Process, list[str]]:
        """Everything that runs on this host, but its sshd, with its command line."""
        found = {}
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):  # it has just ended
                here = os.readlink(f"/proc/{process.pid}/ns/pid") == self._namespace
                if here and not process.name().startswith("sshd"):
                    found[process] = process.cmdline()
        return {process: words for process, words in found.items() if words}  # a zombie has no command line

    def find(self, *words: str) -> psutil.Process | None:
        """The newest process of this host that an interpreter runs with these words first."""
        found = [process for process, line in self.processes().items() if tuple(line[1 : 1 + len(words)]) == words]
        return max(found, key=psutil.Process.create_time, default=None)

    def rank(self) -> psutil.Process | None:
        """This host's rank of the training, if it runs; with run.max_restarts not the supervisor, which started it."""
        return self.find("-u", TRAIN)

    def close(self) -> None:
        """End all its processes."""
        with self._process, suppress(ProcessLookupError):
            os.kill(self.first, signal.SIGKILL)


class Hosts:
    """host-1, from where jobs are started, and host-2; between them a cable that can be cut."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.all = folder, [Host(folder, 1)]
        try:
            self.all.append(Host(folder, 2))
            veth = f"ip link add eth0 netns {self.all[0].first} type veth peer name eth0 netns {self.all[1].first}"
            subprocess.run(veth.split(), check=True)
            for host in self.all:
                host.plug_in()
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """Nothing arrives any more and no one is told (no reset, no lost carrier): it is sent to an address no one has."""
        for host in self.all:
            nowhere = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
            host.run("ip", "neighbour", "replace", host.peer, *nowhere, "dev", "eth0")

    def mend(self) -> None:
        """Undo `cut`."""
        for host in self.all:
            host.run("ip", "neighbour", "delete", host.peer, "dev", "eth0")

    def running(self) -> list[str]:
        """The command lines of what runs on either host, but sshd."""
        return [f"{host.name}: {' '.join(line)}" for host in self.all for line in host.processes().values()]

    def close(self) -> None:
        """End both hosts."""
        for host in self.all:
            host.close()


class Job:
    """`deepspeed --hostfile` over pdsh on host-1, with a rank of launcher/train.py on each host."""

    def __init__(self, hosts: Hosts, folder: Path, words: Sequence[str], *options: str) -> None:
        """words: of launcher/train.py. options: of deepspeed. In `folder`, the job's output and what deepspeed reads."""
        folder.mkdir()
        self.hosts, self._log = hosts, folder / "output"
        (folder / "hostfile").write_text("".join(f"{host.address} slots=1\n" for host in hosts.all))
        (folder / ".deepspeed_env").write_text("GLOO_SOCKET_IFNAME=eth0\nDS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\n")
        settings = {"DS_ACCELERATOR": "cpu", "HOME": str(hosts.folder)}
        settings |= {"PYTHONWARNINGS": "ignore", "PYTHONPATH": str(REPOSITORY)}
        runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", "--hostfile", "hostfile", *options]
        command = hosts.all[0].inside("env", "-C", folder, *runner, *words)
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def output(self) -> str:
        """What the job has printed."""
        return self._log.read_text()

    def wait(self, seconds: float) -> int:
        """The exit code of `deepspeed`, once nothing of the job runs on either host."""
        deadline = time.monotonic() + seconds
        while left := self.hosts.running() or self.process.poll() is None:
            assert time.monotonic() < deadline, f"still there after {seconds} s: {left}\n{self.output[-4000:]}"
            time.sleep(0.1)
        return self.process.returncode


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Two hosts that see each other, or a skip with the reason. `folder` must be new: it is root's home on both."""
    missing = [program for program in PACKAGES if not shutil.which(program)]
    if missing:
        packages = " ".join(PACKAGES[program] for program in missing)
        pytest.skip(f"two hosts need {', '.join(missing)}: apt-get install {packages}")
    trial = subprocess.run([*NEW_HOST, "ip", "link", "add", "type", "veth"], capture_output=True, text=True)
    if trial.returncode:
        pytest.skip(f"two hosts need root and its right to make network namespaces: {trial.stderr.strip()}")
    for path in (folder, folder / ".ssh"):
        path.mkdir(mode=0o700)
    (folder / ".ssh" / "config").write_text(SSH)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / ".ssh" / "id_ed25519"], check=True)
    (folder / "hosts").write_text("127.0.0.1 localhost\n10.0.0.1 host-1\n10.0.0.2 host-2\n")
    users = ["root:x:0:0:root:{folder}:/bin/bash", "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin"]
    (folder / "passwd").write_text("".join(f"{user.format(folder=folder)}\n" for user in users))
    hosts = Hosts(folder)
    try:
        yield hosts
    finally:
        hosts.close()
