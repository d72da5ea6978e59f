#!/usr/bin/env bash
# Trains on several nodes of a SLURM cluster; data and workdir are on its shared file system.
#
#   sbatch experiments/launch/slurm.sh --config=configs/kinetics400.py:L/16x2,factorised_encoder \
#     --config.data.root=/shared/kinetics400 --workdir=/shared/runs/kinetics400
#
# The same command continues a run that ended early.
#SBATCH --job-name=vivit
#SBATCH --nodes=4
# One task per GPU, and GPUs per node rather than per task: of those of its node each task takes the
# one of its number, as JAX does on SLURM.
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# Five minutes before the time is over, all tasks save the same step and end with exit code 0.
#SBATCH --signal=TERM@300
#SBATCH --open-mode=append
set -euo pipefail

# The tasks find each other through SLURM's variables; one that fails ends all.
exec srun --kill-on-bad-exit=1 vivit train "$@"
