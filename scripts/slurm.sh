#!/usr/bin/env bash
# Trains with one rank for each task of a Slurm job:
#
#   sbatch --nodes=4 --ntasks-per-node=1 --cpus-per-task=16 scripts/slurm.sh --config run.yaml --output runs/mine
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-task=1 scripts/slurm.sh --set device=gpu --output runs/mine
#
# Arguments are those of `rbd-ipu train`; the folder must be on a file system that all nodes see. Slurm sends SIGTERM
# two minutes before it ends a job: the ranks stop after the same step and rank 0 saves a checkpoint. The same command
# goes on from there, by hand or when Slurm starts the job again (--requeue).
#
#   RBD_SRUN    options of srun, such as --mpi=pmix where MPI was built for it; --mpi=pmi2 is what MPICH understands
#   RBD_PYTHON  the Python that has rbd_ipu; default python3
#SBATCH --job-name=rbd-ipu
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
# shellcheck disable=SC2086 # several options
exec srun ${RBD_SRUN:---mpi=pmi2} --kill-on-bad-exit=1 "${RBD_PYTHON:-python3}" -m rbd_ipu train --resume auto "$@"
