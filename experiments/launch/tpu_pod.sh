#!/usr/bin/env bash
# Trains on all hosts of a TPU pod slice. Run it anywhere that gcloud may log in to them:
#
#   TPU=my-slice ZONE=us-east5-a experiments/launch/tpu_pod.sh \
#     --config=configs/kinetics400.py:L/16x2,factorised_encoder \
#     --config.data.root=/mnt/shared/kinetics400 --workdir=/mnt/shared/runs/kinetics400
#
# Every host must have this repository with its .venv (pip install -e '.[tpu]') in $FOLDER of the
# home folder, and see the workdir: put it on a file system that all of them mount, such as Filestore.
set -euo pipefail
: "${TPU:?is the name of the slice}" "${ZONE:?is its zone}"

# The same words on each host: who the others are, JAX learns from the slice.
command="cd $(printf %q "${FOLDER:-vivit_jax}") && .venv/bin/vivit train$(printf ' %q' "$@")"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
