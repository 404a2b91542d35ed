"""One image on one rank, and on all of them: how much faster forward and backward are with the queries shared out.

    torchrun --nproc-per-node 2 benchmarks/context_parallel.py [--size 256 256] [--width 0.25] [--rounds N] [--bf16] [--json FILE]

On CPUs each rank has one thread, so that two ranks have twice the machine of one; CPU seconds are those of the busiest rank,
which other work on the machine disturbs less, and waiting is none. The prediction counts convolutions and attention alike, by
FLOP. Without DeepSpeed's reduction of gradients, which is the same for both.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402
from training_peers import flop  # noqa: E402

from msanet import distributed  # noqa: E402
from msanet.data.loader import plan_batches  # noqa: E402
from msanet.models import build_model  # noqa: E402
from msanet.training.engine.context_parallel import parallelize_attention, same_image_group  # noqa: E402


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), help="height and width of the image")
    parser.add_argument("--width", type=float, default=0.25, help="model.width (default 0.25)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="under autocast")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    with distributed.exiting_session(distributed.Timeouts.scaled(600)):
        if not torch.cuda.is_available():
            torch.set_num_threads(1)
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Seconds of both in turns; rank 0 prints."""
    ranks, device = distributed.world_size(), distributed.device()
    torch.manual_seed(0)
    alone = build_model("msanet", 19, width=args.width).to(device)
    image_NCHW = torch.randn(1, 3, *args.size, device=device)
    convolutions, attention = flop(alone, image_NCHW)
    shared = copy.deepcopy(alone)
    parallelize_attention(shared, same_image_group(plan_batches(1, None, ranks, ranks)))

    cpu: dict[str, list[float]] = {"one rank": [], f"{ranks} ranks": []}

    def seconds(name: str, model: nn.Module, everyone: bool) -> Callable[[], float]:
        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                loss = model(image_NCHW).float().square().mean()
            loss.backward()
            model.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return lambda: timed(step if everyone or distributed.is_main() else lambda: None, cpu[name])

    models = zip(cpu, (alone, shared), (False, True), strict=True)
    subjects = {name: seconds(name, model, everyone) for name, model, everyone in models}
    in_turns(subjects, 1)  # kernels are chosen
    found = in_turns(subjects, args.rounds)
    if distributed.is_main():
        one, several = found.values()
        one_cpu, _ = cpu.values()
        rows = []
        for name, wall in found.items():
            own = cpu[name][1:]
            rows.append((name, median(wall), median_ratio(one, wall), median(own), median_ratio(one_cpu[1:], own)))
        print_table(("one image on", "s forward and backward", "times as fast", "CPU s", "times as fast"), rows)
        predicted = (convolutions + attention) / (convolutions + attention / ranks)
        print(f"by FLOP ({convolutions / 1e9:.4g} G and {attention / 1e9:.4g} G): {predicted:.3g} times as fast")
        write_json(
            args.json,
            {"options": vars(args) | {"json": None}, "seconds": found, "cpu_seconds": cpu, "predicted": predicted},
        )


def timed(step: Callable[[], None], cpu: list[float]) -> float:
    """Wall seconds until all ranks have done it; the CPU seconds of the busiest are appended to `cpu`."""
    distributed.all_reduce_max(0)
    start, own = time.perf_counter(), time.process_time()
    step()
    cpu.append(distributed.all_reduce_max(int((time.process_time() - own) * 1e6)) / 1e6)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
