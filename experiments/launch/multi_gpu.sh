#!/usr/bin/env bash
# Trains on all GPUs of one machine. One process drives all of them, so there is nothing to launch
# several times; CUDA_VISIBLE_DEVICES=0,1 leaves the others to somebody else.
#
#   experiments/launch/multi_gpu.sh --config=configs/kinetics400.py:B/16x2,factorised_encoder \
#     --config.data.root=/data/kinetics400 --config.data.workers=16 --workdir=runs/kinetics400
set -euo pipefail

# JAX takes three quarters of the memory by default; nothing else runs on a training machine.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
exec vivit train "$@"
