"""jobs/ for clusters: scripts run, SLURM being played by tests/support/fake_slurm.py; manifests and image fit the code."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import psutil
import pytest
import yaml

from conftest import REPOSITORY
from msanet.cli.train import train_config
from msanet.config import settings
from msanet.data.loader import plan_batches
from msanet.models import model_options
from support.commands import steps_logged, wait_until, words
from support.fake_slurm import calls, install, signal_step
from support.ranks import free_port
from support.small_runs import newest

JOBS = REPOSITORY / "jobs"
KUBERNETES = "1.33"  # the oldest that has what train.yaml needs
TOOLS = Path(sys.executable).parent


def manifest(name: str, kind: str) -> dict[str, Any]:
    (document,) = (d for d in yaml.safe_load_all((JOBS / "kubernetes" / name).read_text()) if d["kind"] == kind)
    return document


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to give sbatch in: the repository's launcher and jobs, and room for what a job writes beside them."""
    for name in ("launcher", "jobs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def sbatch(place: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """A job of two ranks; what it says goes to `place`/log."""
    cluster = {**install(place / "bin"), **more}
    if "CODES" in more:
        stub(place / "bin")
    command = ["sbatch", "--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "jobs/slurm.sh", *arguments]
    with (place / "log").open("w") as log:
        return subprocess.Popen(command, cwd=place, env=cluster, stdout=log, stderr=log, text=True)


def stub(folder: Path) -> None:
    """A `python` that says who it is and ends with a code of $CODES: by restart under SLURM, by rank otherwise."""
    program = folder / "python"
    program.write_text(
        "#!/usr/bin/env bash\nread -ra codes <<<$CODES\n"
        'echo "rank $RANK local $LOCAL_RANK of $WORLD_SIZE, $LOCAL_WORLD_SIZE here, $MASTER_ADDR $MASTER_PORT: $*"\n'
        'if [ "${codes[0]}" = wait ]; then trap "exit 75" TERM USR1 HUP; touch "$MARKS/$RANK"; while :; do sleep 0.05; done; fi\n'
        '[ -v SLURM_JOB_ID ] && number=${SLURM_RESTART_COUNT:-0} || number=$LOCAL_RANK\nexit "${codes[$number]}"\n'
    )
    program.chmod(0o755)


def test_a_slurm_job_that_is_warned_saves_goes_back_into_the_queue_and_ends(shards: Path, place: Path) -> None:
    run, log = place / "run", place / "log"
    job = sbatch(place, *words(shards, run, 60)[1:])
    wait_until(lambda: steps_logged(run) >= 3, [job])
    signal_step(place / "bin", signal.SIGUSR1)
    assert job.wait(timeout=200) == 0, log.read_text()
    assert len(calls(place / "bin", "srun")) == 2 and "ended with code 75: requeueing the job" in log.read_text()
    assert "resuming from" in log.read_text() and newest(run / "checkpoints").state.step == steps_logged(run) == 60


def test_a_slurm_job_with_bad_input_is_not_tried_again(shards: Path, place: Path) -> None:
    job = sbatch(place, *words(shards, place / "run", 60)[1:], "model.widht=2")
    assert job.wait(timeout=100) == 2 and "did you mean 'width'" in (place / "log").read_text()
    assert len(calls(place / "bin", "srun")) == 1


@pytest.mark.parametrize(
    ("codes", "starts", "limits"),
    [
        ("0", 1, {}),
        ("2", 1, {}),
        ("130", 1, {}),
        ("75 75 75 75 0", 5, {}),
        ("1 137 0", 3, {}),
        ("1 1 1", 3, {}),
        ("1 1 75 1 1 75 0", 7, {}),  # a run that has saved has got on: its faults count again
        ("1 0", 1, {"FAULTS": "1"}),
        ("75 75 75", 3, {"REQUEUES": "2"}),
    ],
)
def test_what_a_slurm_job_is_started_again_after(codes: str, starts: int, limits: dict[str, str], place: Path) -> None:
    job = sbatch(place, "run.dir=RUN", CODES=codes, **limits)
    code = job.wait(timeout=60)
    log = (place / "log").read_text()
    assert len(calls(place / "bin", "srun")) == starts, log
    assert code == int(codes.split()[starts - 1])
    assert ("error: " in log) == (code not in (0, 2, 130)) and not (code == 0 and list(place.glob("*.faults")))


def test_ranks_of_a_slurm_job_know_their_places(place: Path) -> None:
    """Ranks 2 and 3 are on the second node; the store is on the first."""
    folder = place / "bin"
    cluster = {**install(folder), "CODES": "0 0"}
    stub(folder)
    command = ["sbatch", "--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=3", "jobs/slurm.sh", "a=[1, 2]"]
    said = subprocess.run(command, cwd=place, env=cluster, capture_output=True, text=True)
    expected = [
        f"rank {rank} local {rank % 2} of 4, 2 here, 127.0.0.1 {15000 + 4711}: launcher/train.py a=[1, 2]"
        for rank in range(4)
    ]
    assert sorted(said.stdout.splitlines()) == expected, said
    ((*options, _, _, _, _, _),) = calls(folder, "srun")
    assert "--cpus-per-task=3" in options and "--distribution=block" in options and "--kill-on-bad-exit=0" in options


def ranks_sh(place: Path, command: list[str], **more: str) -> subprocess.Popen[str]:
    """One host of jobs/ranks.sh, as the pod of jobs/kubernetes/train.yaml starts it."""
    cluster = {**install(place / f"bin{more.get('NODE')}"), "MASTER_ADDR": "127.0.0.1", "RANKS_PER_NODE": "2", **more}
    if "CODES" in more:
        stub(place / f"bin{more['NODE']}")
    return subprocess.Popen(command, cwd=place, env=cluster, stdout=-1, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(("codes", "code"), [("0 0", 0), ("75 75", 75), ("0 1", 1), ("2 2", 2), ("137 1", 137)])
def test_a_host_ends_with_the_largest_code_of_its_ranks(codes: str, code: int, place: Path) -> None:
    port = {"NODES": "3", "NODE": "1", "MASTER_PORT": "29500"}
    host = ranks_sh(place, ["jobs/ranks.sh", "launcher/train.py", "a=[1, 2]"], CODES=codes, **port)
    said = host.communicate(timeout=60)[0]
    line = "of 6, 2 here, 127.0.0.1 29500: launcher/train.py a=[1, 2]"
    assert sorted(said.splitlines()) == [f"rank 2 local 0 {line}", f"rank 3 local 1 {line}"]
    assert host.returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_host_that_is_asked_to_stop_stops_its_ranks(number: signal.Signals, place: Path) -> None:
    port = {"NODES": "1", "NODE": "0", "MASTER_PORT": "29500", "MARKS": str(place)}
    host = ranks_sh(place, ["jobs/ranks.sh", "launcher/train.py"], CODES="wait", **port)
    wait_until(lambda: (place / "0").exists() and (place / "1").exists(), [host])
    host.send_signal(number)
    assert host.wait(timeout=60) == 75


@pytest.mark.slow
def test_the_pods_train_and_stopping_one_stops_both(shards: Path, place: Path) -> None:
    """Two pods of one rank each, with the manifest's command."""
    job, run = manifest("train.yaml", "Job"), place / "run"
    command = [*job["spec"]["template"]["spec"]["containers"][0]["command"], *words(shards, run, 100_000)[1:]]
    more = {"NODES": "2", "RANKS_PER_NODE": "1", "MASTER_PORT": str(free_port())}
    pods = [ranks_sh(place, command, NODE=str(node), **more) for node in range(2)]
    wait_until(lambda: steps_logged(run) >= 3, pods)
    pods[1].terminate()
    said = [pod.communicate(timeout=100)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [75, 75], said
    assert newest(run / "checkpoints").state.step == steps_logged(run) >= 3


@pytest.mark.slow
def test_torchrun_trains_and_makes_one_of_75(shards: Path, place: Path) -> None:
    """Which is why jobs/ does not use it."""
    run = place / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    command += words(shards, run, 60)
    options: dict[str, Any] = {"env": {**os.environ, "DS_ACCELERATOR": "cpu"}, "cwd": REPOSITORY, "text": True}
    first = subprocess.Popen(command, stdout=(place / "log").open("w"), stderr=subprocess.STDOUT, **options)
    wait_until(lambda: steps_logged(run) >= 3, [first])
    ranks = [p for p in psutil.Process(first.pid).children() if "RANK" in p.environ()]
    ranks[0].send_signal(signal.SIGUSR1)
    assert first.wait(timeout=100) == 1, (place / "log").read_text()
    assert re.search(r"exitcode\s*: 75", (place / "log").read_text())
    assert subprocess.run(command, capture_output=True, **options).returncode == 0
    assert newest(run / "checkpoints").state.step == steps_logged(run) == 60


@pytest.mark.parametrize("name", ["train.yaml", "storage.yaml"])
def test_manifests_fit_the_schemas_of_kubernetes(name: str) -> None:
    for document in yaml.safe_load_all((JOBS / "kubernetes" / name).read_text()):
        assert kubernetes_validate.validate(document, KUBERNETES, strict=True) == KUBERNETES
        document["spec"]["nodeSelektor"] = {}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def group(**more: Any) -> dict[str, Any]:
    """A schema of an object with these properties and no others; all are needed."""
    return {"type": "object", "properties": more, "required": list(more), "additionalProperties": False}


TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
START = {"type": "object", "additionalProperties": TEXT}
RAY_JOB = group(
    entrypoint=TEXT,
    backoffLimit=COUNT,
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=group(
        rayVersion=TEXT,
        authOptions=group(mode={"enum": ["disabled", "token"]}),
        headGroupSpec=group(rayStartParams=START, template={}),
        workerGroupSpecs={
            "type": "array",
            "items": group(
                groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=START, template={}
            ),
        },
    ),
)
"""What sweep.yaml uses of KubeRay's API reference for ray.io/v1, its pod templates apart."""


def test_the_ray_job_fits_what_can_be_checked_of_it() -> None:
    document = manifest("sweep.yaml", "RayJob")
    assert document["apiVersion"] == "ray.io/v1"
    jsonschema.validate(document["spec"], RAY_JOB)
    cluster = document["spec"]["rayClusterSpec"]
    for part in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": part["template"]}
        assert kubernetes_validate.validate(pod, KUBERNETES, strict=True) == KUBERNETES
    assert f"\nray=={cluster['rayVersion']}\n" in (REPOSITORY / "requirements.txt").read_text()


def test_the_sweep_that_the_ray_job_starts_is_one(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msanet.cli.sweep import sweep_job

    monkeypatch.chdir(REPOSITORY)
    python, script, *arguments = shlex.split(manifest("sweep.yaml", "RayJob")["spec"]["entrypoint"])
    script, *arguments = (word.replace("/opt/msanet", str(REPOSITORY)) for word in (script, *arguments))
    assert python == "python" and Path(script).is_file()
    arguments = [f"data.path={shards}" if word.startswith("data.path=") else word for word in arguments]
    arguments = [f"sweep.folder={tmp_path}" if word.startswith("sweep.folder=") else word for word in arguments]
    assert sweep_job(arguments).address == "auto"


def test_the_job_names_files_and_settings_that_exist() -> None:
    job = manifest("train.yaml", "Job")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    variables = environment(container)
    assert all((REPOSITORY / word).is_file() for word in container["command"])
    config = train_config(container["args"])  # settings, and the recipe relative to the root
    ranks = int(variables["NODES"]) * int(variables["RANKS_PER_NODE"])
    assert plan_batches(config.trainer.global_batch_size, config.trainer.micro_batch_size, ranks)
    assert config.run.preemption_grace_seconds < job["template"]["spec"]["terminationGracePeriodSeconds"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in (config.data.path, config.run.dir, config.storage.cache_dir):
        assert any(str(path).startswith(f"{mount}/") or str(path) == mount for mount in mounts), path


def test_the_parts_of_the_job_agree() -> None:
    document, service = manifest("train.yaml", "Job"), manifest("train.yaml", "Service")
    job, name = document["spec"], service["metadata"]["name"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    variables = environment(container)
    assert job["completions"] == job["parallelism"] == int(variables["NODES"])
    assert variables["RANKS_PER_NODE"] == container["resources"]["limits"]["nvidia.com/gpu"]
    assert variables["MASTER_ADDR"] == f"{document['metadata']['name']}-0.{name}" and pod["subdomain"] == name
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": document["metadata"]["name"]}
    assert [port["port"] for port in service["spec"]["ports"]] == [int(variables["MASTER_PORT"])]
    # Kubernetes takes a podFailurePolicy with these only.
    assert (job["completionMode"], pod["restartPolicy"], job["podReplacementPolicy"]) == ("Indexed", "Never", "Failed")
    rules = {
        tuple(r["onExitCodes"]["values"]): r["action"] for r in job["podFailurePolicy"]["rules"] if "onExitCodes" in r
    }
    assert rules == {(2,): "FailJob", (75,): "Ignore"}


def test_pods_mount_the_volumes_that_they_have() -> None:
    cluster = manifest("sweep.yaml", "RayJob")["spec"]["rayClusterSpec"]
    groups = (manifest("train.yaml", "Job")["spec"], cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    for pod in (part["template"]["spec"] for part in groups):
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shared": "/data", "cache": "/cache", "shm": "/dev/shm"}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        claim = volumes["shared"]["persistentVolumeClaim"]["claimName"]
        assert claim == manifest("storage.yaml", "PersistentVolumeClaim")["metadata"]["name"]
        assert volumes.keys() == mounts.keys() and volumes["shm"]["emptyDir"]["medium"] == "Memory"


def test_the_image_has_all_that_it_copies_and_is_no_root() -> None:
    assert subprocess.run([TOOLS / "hadolint", JOBS / "Dockerfile"], capture_output=True).returncode == 0
    text = (JOBS / "Dockerfile").read_text()
    let_in = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for word in line.split()}
    assert {name.split("/")[0] for name in copied} == let_in and all((REPOSITORY / name).exists() for name in copied)
    assert re.findall(r"^FROM (.+)", text, re.MULTILINE) == [
        *re.findall(r"FROM (python:3\.\d+\.\d+-slim-\w+)$", text, re.M)
    ]
    assert {"gcc", "libc6-dev"} <= set(text.split()), "Triton compiles a stub in C"
    (user,) = re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)
    for name, kind in (("train.yaml", "Job"), ("sweep.yaml", "RayJob")):
        users = set(re.findall(r"runAsUser: (\d+)", (JOBS / "kubernetes" / name).read_text()))
        assert users == {user} and manifest(name, kind)
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    assert set(named.split(",")) <= extras.keys()


def test_scripts_are_clean() -> None:
    scripts = sorted(JOBS.glob("*.sh"))
    checked = subprocess.run([TOOLS / "shellcheck", *scripts], capture_output=True, text=True)
    assert len(scripts) == 3 and checked.returncode == 0, checked.stdout
    assert all(os.access(script, os.X_OK) for script in scripts)


def test_the_hostfile_is_one_for_deepspeed() -> None:
    from deepspeed.launcher.runner import fetch_hostfile

    assert dict(fetch_hostfile(str(JOBS / "hostfile.example"))) == {"10.0.0.1": 8, "10.0.0.2": 8}


def test_the_page_names_settings_that_exist() -> None:
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    named = set(re.findall(r"`((?:run|data|storage|trainer|model)\.\w+)", page))
    known = {name for name, *_ in settings()} | {f"model.{option}" for option in model_options("msanet")}
    assert len(named) > 8 and named <= known
