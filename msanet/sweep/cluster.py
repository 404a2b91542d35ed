"""Ray for a sweep: started on this machine for as long as the sweep lasts, or an existing cluster that is joined."""

import logging
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from msanet.errors import UserError
from msanet.sweep.folders import ray_folders
from msanet.sweep.plan import SweepPlan
from msanet.telemetry import disable_telemetry

_OBJECT_STORE_BYTES = 100 * 2**20
"""Only settings and metrics go through it."""
_CONNECT_SECONDS = 5.0
_TOKEN_FILE = Path("~/.ray/auth_token")
_RAY_ENVIRONMENT = {
    "RAY_kill_child_processes_on_worker_exit": "0",  # ranks get SIGTERM once their actor is gone, save and end
    "RAY_worker_niceness": "0",  # Ray's default of 15 gives way to everything else on the machine
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails before its first validation has none
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # seconds between two saves of the sweep's state
}
_JOIN_ENVIRONMENT = {  # Ray would try for 13 minutes
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_py_gcs_connect_timeout_s": "10",
}
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


@contextmanager
def ray_for(plan: SweepPlan, address: str | None) -> Iterator[None]:
    """Ray on this machine inside the `with` block, or the cluster at `address`.

    Raises:
        UserError: Ray is not installed, there is no cluster, it refuses our token, or a trial can never be placed.
    """
    disable_telemetry()
    with ray_folders(), _ray(plan, address):
        yield


@contextmanager
def _ray(plan: SweepPlan, address: str | None) -> Iterator[None]:
    for name, value in (_RAY_ENVIRONMENT | (_JOIN_ENVIRONMENT if address else {})).items():  # read when Ray is imported
        os.environ.setdefault(name, value)
    if address and _has_token():  # with HOST:PORT Ray does not look for it by itself
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        import ray.tune  # noqa: F401
    except ImportError:
        message = "a sweep needs Ray Tune, which is not installed; pip install 'msanet[sweep]'"
        raise UserError("MSA-SWEEP-001", message) from None
    if address:
        _join(address)
    else:
        # Without a dashboard, its process only asks the network in which cloud this is, even if reports of use are off.
        with mock.patch("ray._private.services.start_api_server", return_value=(None, None)):
            ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **_QUIET)
        # It polls log files ten times a second for nothing: a quarter of what Ray takes from the steps of a trial.
        ray._private.worker._global_node.kill_log_monitor()
    warnings.filterwarnings("ignore", module=r"ray\.tune")  # advice on speed that does not apply
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of trials, which results.csv explains
    # On SIGINT, Tune saves the state of the sweep.
    previous = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        _check_capacity(plan)
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        ray.shutdown()


def rank_resources(plan: SweepPlan) -> dict[str, float]:
    """What one rank takes of a node, in Ray's terms."""
    return {"CPU": float(plan.sweep.cpus), **({"GPU": 1.0} if plan.sweep.gpus else {})}


def _join(address: str) -> None:
    import ray

    try:
        _require_reachable(address)
        ray.init(address, **_QUIET)
    except UserError:
        raise
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if "InvalidAuthToken" in str(error.__cause__) or isinstance(error, ray.exceptions.AuthenticationError):
            found = "a different token" if _has_token() else "a token, and none was found"
            advice = "put what `ray get-auth-token` prints on its head into RAY_AUTH_TOKEN, or into ~/.ray/auth_token"
            message = f"the Ray cluster at --address '{address}' requires {found}; {advice}"
            raise UserError("MSA-SWEEP-002", message, setting="--address") from None
        raise _cannot_join(address, str(error).splitlines()[0].rstrip(".")) from None


def _require_reachable(address: str) -> None:
    """Ray itself tries for most of a minute."""
    from ray._private.services import canonicalize_bootstrap_address

    host, _, port = (canonicalize_bootstrap_address(address) or address).rpartition(
        ":"
    )  # without names of this machine
    if not host or not port.isdecimal() or int(port) >= 2**16:
        return  # `auto`, or what Ray explains
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise _cannot_join(
            address, os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        ) from None


def _cannot_join(address: str, reason: str) -> UserError:
    advice = "run this on a node of a cluster, with HOST:PORT of its head or `auto`, or remove --address"
    message = f"cannot join a Ray cluster at --address '{address}' from here ({reason}); {advice}"
    return UserError("MSA-SWEEP-003", message, setting="--address")


def _has_token() -> bool:
    """Whether Ray finds a token where it looks for one."""
    return bool({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()) or _TOKEN_FILE.expanduser().is_file()


def _check_capacity(plan: SweepPlan) -> None:
    """Ray would wait forever for resources that the cluster does not have."""
    import ray

    wanted = rank_resources(plan)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = sum(int(min(node.get(what, 0.0) // amount for what, amount in wanted.items())) for node in nodes)
    if fits < plan.sweep.ranks:
        needs = " and ".join(f"{amount:g} {what}" for what, amount in wanted.items())
        has = " and ".join(f"{sum(node.get(what, 0.0) for node in nodes):g} {what}" for what in wanted)
        found = f"Ray has {has} on {len(nodes)} nodes, which fits {fits} ranks"
        message = (
            f"{plan.sweep.ranks} ranks of {needs} each can never be placed: {found}; lower sweep.ranks or sweep.cpus"
        )
        raise UserError("MSA-SWEEP-004", message, setting="sweep.ranks")
