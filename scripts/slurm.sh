#!/usr/bin/env bash
# Trains with one worker for each task of a Slurm job:
#
#   sbatch --nodes=4 --ntasks-per-node=1 --cpus-per-task=16 scripts/slurm.sh --config run.yaml --output runs/mine
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-task=1 scripts/slurm.sh --set device=gpu --output runs/mine
#
# Arguments are those of `rbd-ipu train`; the folder must be on a file system that all nodes see. Slurm sends SIGTERM
# before it ends a job: worker 0 then saves a checkpoint, and the same command with --resume goes on.
#SBATCH --job-name=rbd-ipu
#SBATCH --signal=TERM@120
set -euo pipefail

if [ -z "${SLURM_PROCID:-}" ] || [ -z "${RBD_IN_TASK:-}" ]; then
  # The batch script itself: start this script once more in every task.
  export RBD_IN_TASK=1
  exec srun --kill-on-bad-exit=1 bash "$0" "$@"
fi

# Workers of one node take ports of their own, from this one on.
first_port=${RBD_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
workers=''
index=0
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
  for ((task = 0; task < SLURM_NTASKS / SLURM_JOB_NUM_NODES; task++)); do
    workers+="${workers:+, }\"$node:$((first_port + task))\""
    index=$((index + 1))
  done
done
if [ "$index" != "$SLURM_NTASKS" ]; then
  echo "slurm.sh: $SLURM_NTASKS tasks on $SLURM_JOB_NUM_NODES nodes: give every node as many (--ntasks-per-node)" >&2
  exit 2
fi
export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]}, \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
exec python3 -m rbd_ipu train --set "workers=$SLURM_NTASKS" "$@"
