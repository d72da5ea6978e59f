#!/usr/bin/env bash
# One run of two processes on this machine, to see several hosts at work without having them:
#
#   experiments/launch/two_processes.sh vivit train --config=configs/moving_digits.py --workdir=runs/two
#
# On CPU each process shows as many devices as XLA_FLAGS=--xla_force_host_platform_device_count=4
# asks for. SIGTERM to this script goes to both; the exit code is that of the one that failed first.
set -uo pipefail
address=127.0.0.1:${PORT:-$((20000 + RANDOM % 10000))}

processes=()
for process in 0 1; do
  "$@" --coordinator="$address" --processes=2 --process="$process" &
  processes+=($!)
done
trap 'kill -TERM "${processes[@]}" 2>/dev/null' TERM INT

code=0
for process in "${processes[@]}"; do
  wait "$process"
  status=$?
  # A signal to this script ends the first wait, not the process.
  while kill -0 "$process" 2>/dev/null; do wait "$process"; status=$?; done
  [[ $code -ne 0 ]] || code=$status
done
exit "$code"
