"""The ranks of one training in a placement group of Ray."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msanet.distributed.parent_watchdog import ATTEMPT_VARIABLE
from msanet.sweep.plan import SweepPlan
from msanet.sweep.process import RankExit, RankPlacement, RankProcess

LOCK_FILE = "lock"
_LAST_WORDS = 10.0
"""Seconds that ranks have to say why they end, once one of them has."""
_POLL = 0.5


def environments(places: Sequence[RankPlacement], plan: SweepPlan) -> list[dict[str, str]]:
    """What a launcher would set for each rank."""
    nodes = [place.node for place in places]
    alone = _is_one_node(places)
    found = []
    for rank, place in enumerate(places):
        here = [other for other in places if other.node == place.node]
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(places)),
            "LOCAL_RANK": str(nodes[:rank].count(place.node)),
            "LOCAL_WORLD_SIZE": str(len(here)),
            "LOCAL_SIZE": str(max(1, place.cores // plan.sweep.cpus)),  # by which the cores of a host are shared
            "MASTER_ADDR": "127.0.0.1" if alone else places[0].address,
            "MASTER_PORT": str(places[0].port),
            "CUDA_VISIBLE_DEVICES": ",".join(gpu for other in here for gpu in other.gpus),
            ATTEMPT_VARIABLE: "0",  # the trial is this training's supervisor
            "PYTHONWARNINGS": "ignore",
            "TQDM_MININTERVAL": "30",
        }
        if not plan.sweep.gpus:
            environment["DS_ACCELERATOR"] = "cpu"
        found.append(environment)
    return found


def start_ranks(plan: SweepPlan, command: Sequence[str], run: Path) -> tuple[list[Any], list[Any]]:
    """Start all ranks of a training in this actor's placement group. Their actors, and what gives the `RankExit` of each."""
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
    places = ray.get([actor.place.remote() for actor in actors])
    alone = _is_one_node(places)
    ends = []
    for rank, environment in enumerate(environments(places, plan)):
        log, lock = run / "ranks" / f"{rank:05d}.log", None if rank else run / LOCK_FILE
        address = None if alone else places[rank].address
        ends.append(actors[rank].run.remote(command, environment, log, lock, address))
    return actors, ends


def wait_for_ranks(actors: Sequence[Any], running: Sequence[Any], meanwhile: Callable[[], None]) -> list[RankExit]:
    """How each rank has ended. Raises RayError where one was lost with its node."""
    import ray

    ends: dict[int, RankExit] = {}
    waiting, until = list(running), float("inf")
    while waiting:
        done, waiting = ray.wait(waiting, timeout=_POLL)
        ends |= {running.index(one): ray.get(one) for one in done}
        meanwhile()
        if any(end.code for end in ends.values()):
            until = min(until, time.monotonic() + _LAST_WORDS)
        if time.monotonic() > until:  # they would wait for it for long
            ray.get([actor.kill.remote() for actor in actors])
    return [ends[rank] for rank in range(len(running))]


def _is_one_node(places: Sequence[RankPlacement]) -> bool:
    return len({place.node for place in places}) == 1
