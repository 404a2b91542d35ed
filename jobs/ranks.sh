#!/usr/bin/env bash
# The ranks of one host, for clusters that start one process for each host, such as Kubernetes:
#
#   NODES=4 NODE=0 RANKS_PER_NODE=8 MASTER_ADDR=HOST MASTER_PORT=29500 jobs/ranks.sh launcher/train.py --config ... [key=value ...]
#
# on each host with its own NODE, 0 to NODES-1. Ends with the largest exit code of its ranks, so that 75 (preempted, and
# saved) and 2 (bad input) can be told from a fault, and passes on the signals that stop a run. torchrun ends with 1 in both
# cases, and DeepSpeed's launcher kills after 30 s what has not saved.
set -uo pipefail
: "${NODES:?}" "${NODE:?}" "${RANKS_PER_NODE:?}" "${MASTER_ADDR:?}" "${MASTER_PORT:?}"
export MASTER_ADDR MASTER_PORT WORLD_SIZE=$((NODES * RANKS_PER_NODE)) LOCAL_WORLD_SIZE=$RANKS_PER_NODE

ranks=()
for signal in TERM USR1 INT HUP; do
    # shellcheck disable=SC2064 # the name is this one's
    trap "kill -$signal \"\${ranks[@]}\" 2>/dev/null" "$signal"
done
for ((local = 0; local < RANKS_PER_NODE; local++)); do
    RANK=$((NODE * RANKS_PER_NODE + local)) LOCAL_RANK=$local python "$@" &
    ranks+=($!)
done

largest=0
for rank in "${ranks[@]}"; do
    while wait "$rank"; code=$?; [ "$code" -gt 128 ] && kill -0 "$rank" 2>/dev/null; do :; done # a signal ends a wait too
    [ "$code" -gt "$largest" ] && largest=$code
done
exit "$largest"
