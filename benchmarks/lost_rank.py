"""What the other ranks say, and after how long, when one is lost in the middle of training: killed, or stopped so that it hangs.

    python benchmarks/lost_rank.py [--ranks N] [--faults killed stopped] [--timeout SECONDS] [--json FILE]

Real training steps at ZeRO 1, by NCCL on GPUs and by gloo on CPUs; once all ranks have done some, the last one gets SIGKILL or
SIGSTOP. NCCL refuses two ranks on one GPU unless it takes them for two hosts: where there are fewer GPUs than ranks, each rank
is told to be a host of its own (NCCL_HOSTID), they share GPU 0 and talk by sockets. That measures no speed, but a collective that
hangs is the same. Exit code 1 if a loss was not reported by an error code and the number of the rank.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch  # noqa: E402
from harness import print_table, write_json  # noqa: E402
from training_peers import our_step, random_batch  # noqa: E402

from msanet import distributed  # noqa: E402

FAULTS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
START_SECONDS = 100.0
_WORKER = "MSANET_LOST_RANK"
_READY = "five steps done"


def main() -> int:
    """One job for each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--timeout", type=float, default=10.0, help="run.heartbeat_timeout_seconds")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    if _WORKER in os.environ:
        train(args.timeout)
    backend, found = "nccl" if torch.cuda.is_available() else "gloo", {}
    for fault in args.faults:
        found[fault] = lose(fault, args)
        result = {"backend": backend, "ranks": args.ranks, "gpus": torch.cuda.device_count(), "timeout": args.timeout}
        write_json(args.json, {**result, "faults": found}, is_complete=fault == args.faults[-1])
    rows = [(fault, backend, *one.values()) for fault, one in found.items()]
    print_table(("last rank", "by", "s until the others ended", "exit codes", "error codes", "names the rank"), rows)
    return int(not all(one["names_the_rank"] and one["error_codes"] for one in found.values()))


def train(timeout: float) -> None:
    """A rank: steps without end."""
    with distributed.exiting_session(distributed.Timeouts(timeout, 1.6 * timeout, START_SECONDS)):
        step = our_step(random_batch(1, (64, 64)), 0.25, zero_stage=1)
        for _ in range(5):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(_READY, flush=True)
        while True:
            step()


def lose(fault: str, args: argparse.Namespace) -> dict[str, Any]:
    """Start a job, lose its last rank, and what the others did."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(rank) for rank in range(args.ranks)]
        ranks = []
        try:
            for log, own in zip(logs, environments(args.ranks), strict=True):
                with log.open("w") as file:
                    command, environment = [sys.executable, *sys.argv], os.environ | own
                    ranks.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
            deadline = time.monotonic() + START_SECONDS
            while not all(_READY in log.read_text() for log in logs):
                if time.monotonic() > deadline or any(rank.poll() is not None for rank in ranks):
                    raise SystemExit("the job has not started:\n" + "\n".join(log.read_text()[-2000:] for log in logs))
                time.sleep(0.1)
            ranks[-1].send_signal(FAULTS[fault])
            start = time.monotonic()
            codes = [rank.wait(start + 6 * args.timeout + 30 - time.monotonic()) for rank in ranks[:-1]]
            seconds = time.monotonic() - start
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        said = "".join(log.read_text() for log in logs[:-1])
        print(said, file=sys.stderr)
    return {
        "seconds": seconds,
        "exit_codes": codes,
        "error_codes": sorted(set(re.findall(r"\[(MSA-\w+-\d+)\]", said))),
        "names_the_rank": f"rank {args.ranks - 1} (host " in said,
    }


def environments(ranks: int) -> list[dict[str, str]]:
    """What a launcher would set for each rank; without a GPU for each they share the first, as hosts of their own."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(distributed.free_port()), "WORLD_SIZE": str(ranks)}
    common |= {"OMP_NUM_THREADS": "1", "NCCL_SOCKET_IFNAME": "lo", _WORKER: "1"}
    if not torch.cuda.is_available() or torch.cuda.device_count() >= ranks:
        own = [{"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)} for rank in range(ranks)]
    else:
        common |= dict.fromkeys(("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE"), "1")
        own = [{"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NCCL_HOSTID": f"host-{rank}"} for rank in range(ranks)]
    return [{**common, **one, "RANK": str(rank)} for rank, one in enumerate(own)]


if __name__ == "__main__":
    sys.exit(main())
