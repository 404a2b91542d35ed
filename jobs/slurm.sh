#!/usr/bin/env bash
# Train on N nodes of G GPUs under SLURM. From the root of the repository, with the environment's `python` first on PATH:
#
#   sbatch --nodes=4 jobs/slurm.sh --config camvid data.path=SHARDS run.dir=RUN [key=value ...]
#
# What follows `slurm.sh` goes to launcher/train.py. RUN lies on a file system that all nodes see. The job requeues
# itself, and resumes from its last checkpoint, when it is preempted (code 75: the time limit, a preemption) and after a
# fault, but no more than FAULTS=3 times in a row and REQUEUES=100 times in all; not after 0 (done), 2 (bad input) and 130
# (Ctrl-C). For other numbers: FAULTS=5 sbatch ...
#
#SBATCH --job-name=msanet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
# One task for each GPU (--ntasks-per-node = --gpus-per-node), and every task sees all GPUs of its node: no --gpus-per-task.
set -euo pipefail

[ -f launcher/train.py ] || { echo "error: no launcher/train.py in '$PWD'; run sbatch in the root of the repository" >&2; exit 2; }
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${hosts[0]} MASTER_PORT=$((15000 + SLURM_JOB_ID % 15000)) # below the ports that systems give out themselves
faults=slurm-$SLURM_JOB_ID.faults

# Each task is a rank: their codes come back as they are, and SLURM's signals reach them without a launcher in between.
# The ranks end one another, and report why, so srun must not kill them when the first has ended; --wait is for what hangs.
code=0
# shellcheck disable=SC2016 # the variables are those of each task
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --distribution=block --kill-on-bad-exit=0 --wait=600 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    exec python launcher/train.py "$@"' rank "$@" || code=$?

case $code in
    0 | 2 | 130) rm -f "$faults"; exit "$code" ;;
    75) rm -f "$faults" ;;
    *) echo "$code" >>"$faults" ;;
esac
if [ -f "$faults" ] && [ "$(wc -l <"$faults")" -ge "${FAULTS:-3}" ]; then
    echo "error: ${FAULTS:-3} faults in a row, the last with code $code; the same sbatch resumes from the last checkpoint" >&2
elif [ "${SLURM_RESTART_COUNT:-0}" -ge "${REQUEUES:-100}" ]; then
    echo "error: requeued ${REQUEUES:-100} times; the same sbatch resumes from the last checkpoint" >&2
else
    echo "the ranks ended with code $code: requeueing the job" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
