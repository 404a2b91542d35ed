"""Where the time of a step goes, and which rank waits for its data."""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from msanet import distributed
from msanet.cli.train import train_config
from msanet.config import Config
from msanet.training import trainer
from msanet.training.monitoring import profiler
from msanet.training.monitoring.profiler import Profiler, Stopwatch
from msanet.training.monitoring.throughput import ThroughputMeter
from support.ranks import run_ranks
from support.small_runs import small_config, start

PARTS = {
    "waiting for data",
    "copying to the device",
    "forward",
    "backward",
    "non-finite guard",
    "optimizer",
}


def _with_run(config: Config, steps: int, **run: Any) -> Config:
    run_config = config.run.model_copy(update=run)
    return config.model_copy(update={"run": run_config, "trainer": config.trainer.model_copy(update={"steps": steps})})


def _profiled_training(shards: str, folder: str) -> None:
    config = small_config(shards, stage=0, network="unet")
    run = start(_with_run(config, profiler.STEPS + 1, dir=Path(folder), profile=True))
    began = time.perf_counter()
    for step, micro_batches in enumerate(run.global_batches(), start=1):
        run.train_step(micro_batches)
        if step == profiler.STEPS:
            print("seconds", time.perf_counter() - began)
    assert run.state.step == profiler.STEPS + 1


def test_parts_and_the_rest_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0]).__next__
    monkeypatch.setattr(profiler.time, "perf_counter", clock)
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    for part in ("forward", "backward"):
        with watch.part(part):
            pass
    watch.lap()
    assert watch.seconds == {"rest": 1.0 + 4.0 + 16.0, "forward": 2.0, "backward": 8.0}


def test_a_run_too_short_for_a_profile_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = Profiler(torch.device("cpu"), tmp_path / "profile", steps=profiler.STEPS - 1)
    for _ in range(profiler.STEPS):
        profile.begin()
        profile.end()
    assert "nothing is profiled" in capsys.readouterr().err and not (tmp_path / "profile").exists()


def test_the_flag_is_the_setting(tmp_path: Path) -> None:
    words = [f"data.path={tmp_path}", f"run.dir={tmp_path}"]
    assert train_config([*words, "--profile"]).run.profile and not train_config(words).run.profile


def _slow_loader(shards: str, late: int) -> None:
    """One rank's data comes late; its share of the time is known to be large, whatever else this machine does."""
    plain = trainer.train_loader

    def late_loader(*arguments: Any) -> Iterator[Any]:
        for step in plain(*arguments):
            time.sleep(0.3 if distributed.rank() == late else 0.0)
            yield step

    trainer.train_loader = late_loader  # type: ignore[assignment]
    run = start(small_config(shards, stage=0, network="unet"))
    stream = run.global_batches()
    for _ in range(3):
        run.train_step(next(stream))
        figures = run.metrics()
        assert figures["slowest_rank"] == late and 0.2 < figures["data_wait"] <= 1, figures
    print("measured")


def _profile_and_slow_loader(shards: str, folder: str) -> None:
    _profiled_training(shards, folder)
    _slow_loader(shards, late=1)


@pytest.fixture(scope="module")
def said(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """What two ranks said, and the folder of their profile; one job for both tests, since a start takes long."""
    folder = tmp_path_factory.mktemp("run")
    arguments = {"shards": str(shards), "folder": str(folder)}
    return run_ranks(2, __file__, "_profile_and_slow_loader", arguments), folder / "profile"


def test_a_profile_of_two_ranks(said: tuple[list[str], Path]) -> None:
    (first, second), folder = said
    names = ["table.json", "table.txt", "trace-00000.json.gz", "trace-00001.json.gz"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for rank in range(2):
        with gzip.open(folder / f"trace-0000{rank}.json.gz") as file:
            events = {event.get("name") for event in json.load(file)["traceEvents"]}
        assert {"forward", "backward", "optimizer", "waiting for data"} <= events
    table = json.loads((folder / "table.json").read_text())
    parts = table["part_seconds_of_ranks"]
    assert parts.keys() >= PARTS and all(len(ranks) == 2 and min(ranks) >= 0 for ranks in parts.values())
    steps = [sum(ranks[rank] for ranks in parts.values()) for rank in range(2)]
    assert sum(steps) / 2 == pytest.approx(table["step_seconds"])
    elapsed = float(first.partition("seconds ")[2].split()[0])
    reductions = table["collective_seconds_of_ranks"]["gloo:all_reduce"]
    assert len(reductions) == 2 and all(0 < seconds < elapsed for seconds in reductions)
    assert 0 < table["step_seconds"] * table["steps"] < elapsed
    text = (folder / "table.txt").read_text()
    assert all(part in text for part in PARTS) and text in first and text not in second


def test_the_rank_that_waits_for_data_is_named_once(said: tuple[list[str], Path]) -> None:
    first, second = said[0]
    assert "measured" in first and "measured" in second
    assert first.count("waits for data") == 1 and "waits for data" not in second.replace("waiting", "")
    assert "warning: rank 1 (host " in first and "raise data.num_workers (now 0)" in first


@pytest.mark.parametrize("waited", [1, 4])
def test_waiting_is_a_share_of_the_time(
    waited: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of 8 s, and 2 s more until a GPU has done them."""
    clock = iter([0.0, *(10.0, 10.0 + waited, 18.0, 18.0, 20.0) * 2]).__next__
    monkeypatch.setattr("msanet.training.monitoring.throughput.time.perf_counter", clock)
    meter = ThroughputMeter(small_config("shards", stage=0))
    for is_start in (True, False):
        meter.start_wait()
        meter.end_wait()
        meter.end_step()
        figures = meter.metrics(lambda: None)
        assert figures == {"images_per_second": 0.6, "data_wait": pytest.approx(waited / 10)}
        assert bool(capsys.readouterr().err) == (waited == 4 and not is_start)
