#!/usr/bin/env bash
# All that needs a GPU, in minutes; see benchmarks/gpu.py, which gets all words but --wheels.
#   benchmarks/gpu.sh SHARDS OUT [--minutes 12] [--only PART ...] [--rehearse] [--wheels FOLDER]
# --wheels: packages that this machine lacks, as files; installed into a folder of their own, for this run alone.
#
# Where a GPU is lent for minutes, to a machine that reaches no registry and gets the working tree and one ignored folder:
#   1. Before, without it:  python benchmarks/gpu_carry.py CAMVID gpu-carry     # shards and wheels, 55 MB at most; ignored by git
#                           benchmarks/gpu.sh gpu-carry/shards /tmp/gpu --rehearse --minutes 30
#   2. There, carrying gpu-carry, in one call of at most 600 seconds whose folder $OUT comes back:
#        benchmarks/gpu.sh gpu-carry/shards /tmp/gpu --wheels gpu-carry/wheels --minutes 9.2; \
#            tar czf "$OUT"/gpu.tgz -C /tmp/gpu --exclude='runs/*/checkpoints' .
#      With minutes left, at once again, while /tmp/gpu is there (what is done is not run again):
#        the same with --minutes 3; parts that failed are run again, and CamVid's training is resumed
#   3. Afterwards:          mkdir gpu-out; tar xzf gpu.tgz -C gpu-out; python benchmarks/gpu_tables.py gpu-out
set -euo pipefail
python=$(command -v python || command -v python3) || {
    echo "error: neither python nor python3 is on PATH, expected one with torch; activate the environment"
    exit 2
}
words=() wheels=
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=$(realpath "${2:?folder of wheels}") && shift ;;
        *) words+=("$1") ;;
    esac
    shift
done
root=$(realpath "$(dirname "$0")/..")
if [ -n "$wheels" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
nvidia-smi 2>/dev/null || true
"$python" "$root/benchmarks/gpu.py" ${words[@]+"${words[@]}"}
