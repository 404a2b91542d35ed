#!/usr/bin/env bash
# The main job, start to end, on this machine: make street scenes, pack them, train MSANet, judge it, write a report.
# Called by `make demo`; every command is one that you would give yourself. Run it again and it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONWARNINGS=ignore DS_ACCELERATOR
here=${DEMO_DIR:-demo}

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
case $gpus in
    0) DS_ACCELERATOR=cpu ranks=2 ;;  # two processes share the CPU's cores
    1 | 2 | 4 | 8) DS_ACCELERATOR=cuda ranks=$gpus ;;
    *) DS_ACCELERATOR=cuda ranks=$((gpus > 8 ? 8 : gpus > 4 ? 4 : 2)) ;;  # ranks must divide the global batch of 8
esac
port=$((20000 + RANDOM % 10000))  # not the default, which another training may be using
deepspeed=(deepspeed --quiet --log_level error --num_accelerators "$ranks" --master_port "$port")

[ -d "$here/street" ] || python -m sharding synthetic --out "$here/street" --images 240 --size 256x128 --workers 2
python -m sharding cityscapes --source "$here/street" --out "$here/shards"
"${deepspeed[@]}" launcher/train.py --config jobs/recipes/demo.yaml data.path="$here/shards" run.dir="$here/run"
"${deepspeed[@]}" launcher/evaluate.py --run "$here/run" --split val
