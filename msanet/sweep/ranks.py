"""The ranks of one training in a placement group of Ray."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msanet.distributed.parent_watchdog import ATTEMPT_VARIABLE
from msanet.sweep.plan import SweepPlan
from msanet.sweep.process import RankExit, RankPlacement, RankProcess

LOCK_FILE = "lock"
_EXIT_GRACE_SECONDS = 10.0
"""For the other ranks to end and log why, once one of them has failed."""
_POLL_SECONDS = 0.5


def rank_environments(placements: Sequence[RankPlacement], plan: SweepPlan) -> list[dict[str, str]]:
    """The variables that a launcher would set for each rank."""
    nodes = [placement.node for placement in placements]
    single_node = _is_single_node(placements)
    environments = []
    for rank, placement in enumerate(placements):
        on_node = [other for other in placements if other.node == placement.node]
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(placements)),
            "LOCAL_RANK": str(nodes[:rank].count(placement.node)),
            "LOCAL_WORLD_SIZE": str(len(on_node)),
            "LOCAL_SIZE": str(max(1, placement.cores // plan.sweep.cpus)),  # by which the cores of a host are shared
            "MASTER_ADDR": "127.0.0.1" if single_node else placements[0].address,
            "MASTER_PORT": str(placements[0].port),
            "CUDA_VISIBLE_DEVICES": ",".join(gpu for other in on_node for gpu in other.gpus),
            ATTEMPT_VARIABLE: "0",  # the trial is this training's supervisor
            "PYTHONWARNINGS": "ignore",
            "TQDM_MININTERVAL": "30",
        }
        if not plan.sweep.gpus:
            environment["DS_ACCELERATOR"] = "cpu"
        environments.append(environment)
    return environments


def start_ranks(plan: SweepPlan, command: Sequence[str], run: Path) -> tuple[list[Any], list[Any]]:
    """Start all ranks of a training in this actor's placement group: the actors, and the Ray objects of their `RankExit`s."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.get_current_placement_group()
    actors = [
        ray.remote(RankProcess)
        .options(
            num_cpus=plan.sweep.cpus,
            num_gpus=plan.sweep.gpus,
            max_concurrency=2,  # `kill` while it runs
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        )
        .remote()
        for rank in range(plan.sweep.ranks)
    ]
    placements = ray.get([actor.placement.remote() for actor in actors])
    single_node = _is_single_node(placements)
    exits = []
    for rank, environment in enumerate(rank_environments(placements, plan)):
        log, lock = run / "ranks" / f"{rank:05d}.log", None if rank else run / LOCK_FILE
        address = None if single_node else placements[rank].address
        exits.append(actors[rank].run.remote(command, environment, log, lock, address))
    return actors, exits


def wait_for_ranks(actors: Sequence[Any], running: Sequence[Any], on_poll: Callable[[], None]) -> list[RankExit]:
    """Wait for all ranks. Once one has failed, the others have some seconds to end before they are killed.

    Calls `on_poll` every half second. Raises RayError where a rank was lost with its node.
    """
    import ray

    exits: dict[int, RankExit] = {}
    waiting, deadline = list(running), float("inf")
    while waiting:
        done, waiting = ray.wait(waiting, timeout=_POLL_SECONDS)
        exits |= {running.index(one): ray.get(one) for one in done}
        on_poll()
        if any(rank_exit.code for rank_exit in exits.values()):
            deadline = min(deadline, time.monotonic() + _EXIT_GRACE_SECONDS)
        if time.monotonic() > deadline:  # they would wait for the failed rank until their own timeout
            ray.get([actor.kill.remote() for actor in actors])
    return [exits[rank] for rank in range(len(running))]


def _is_single_node(placements: Sequence[RankPlacement]) -> bool:
    return len({placement.node for placement in placements}) == 1
