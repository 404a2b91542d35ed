#!/usr/bin/env bash
# All that needs a GPU, one after the other: tests, tables, and training from scratch in the minutes that are left.
#   benchmarks/gpu.sh SHARDS OUT [MINUTES]
# SHARDS: CamVid's, made by `python -m sharding camvid`. OUT gets a log and a JSON file of each part, and the runs. MINUTES (120) are
# for everything; each part but the last has a bound of its own, and one that fails is named and does not end the others. The same
# command again goes on with the training.
set -uo pipefail
shards=$(realpath -m "${1:?folder of shards}") || exit 2
out=$(realpath -m "${2:?folder for what comes out}") || exit 2
minutes=${3:-120}
cd "$(dirname "$0")/.." || exit
export PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python=$(command -v python || command -v python3) || {
    echo "error: neither python nor python3 is on PATH, expected one with torch; activate the environment"
    exit 2
}
[ -f "$shards/dataset.json" ] || {
    echo "error: '$shards' has no dataset.json, expected shards; make them with python -m sharding camvid"
    exit 2
}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || {
    echo "error: $python has no torch that finds a GPU, expected one; activate the environment, see nvidia-smi"
    exit 2
}
"$python" -c 'import deepspeed, matplotlib, pytest, msanet.cli, msanet.training.trainer' || {
    echo "error: $python lacks what the line above names, expected all of '.[test]'; make setup, or put it on PYTHONPATH"
    exit 2
}
mkdir -p "$out"
failed=()

part() {  # NAME MINUTES COMMAND...: at most so many minutes, and no more than are left
    local name=$1 limit=$2 left=$((minutes * 60 - SECONDS))
    shift 2
    [ -e "$out/$name.done" ] && return
    echo "== $name: $*"
    if timeout -k 60 $((limit * 60 < left ? limit * 60 : left > 0 ? left : 1)) "$@" 2>&1 | tee "$out/$name.log"; then
        touch "$out/$name.done"
    else
        failed+=("$name")
    fi
}

nvidia-smi | tee "$out/machine.log"
read -ra ranks <<<"$("$python" -c 'import torch; print(*range(1, torch.cuda.device_count() + 1))')"
part tests 10 "$python" -m pytest -q -p no:cacheprovider tests/models/test_attention.py tests/training/test_device_prefetcher.py \
    tests/training/test_nonfinite.py tests/training/test_memory.py tests/training/test_compiling.py
part attention 8 "$python" benchmarks/attention.py --rounds 3 --json "$out/attention.json"
part step-224 5 "$python" benchmarks/step.py --size 224 224 --batch 16 --steps 10 --json "$out/step-224.json"
part step-full 6 "$python" benchmarks/step.py --size 1024 2048 --batch 1 --json "$out/step-full.json" \
    --only "ours, bf16" "ours, bf16, compiled" "plain loop, our network, bf16" ours
part memory 5 "$python" benchmarks/memory.py --json "$out/memory.json"
part inference 8 "$python" benchmarks/inference.py --networks msanet --batch 1 --rounds 3 --json "$out/inference.json"
part inference-others 6 "$python" benchmarks/inference.py --networks unet deeplabv3 --rounds 5 --json "$out/inference-others.json"
part scaling 5 "$python" benchmarks/scaling.py --size 224 224 --batch 16 --width 1 --ranks "${ranks[@]}" --json "$out/scaling.json"
part convergence "$minutes" "$python" benchmarks/convergence.py --shards "$shards" --out "$out/runs" --json "$out/convergence.json" \
    --minutes $(((minutes * 60 - SECONDS) / 60 - 1))
[ ${#failed[@]} = 0 ] || { echo "error: not done: ${failed[*]}; see the logs in $out"; exit 1; }
