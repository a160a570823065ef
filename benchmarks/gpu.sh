#!/usr/bin/env bash
# All that is wanted from a GPU, in at most 8 minutes: checks against the CPU, then what a step costs.
#
#   benchmarks/gpu.sh [FOLDER]     PYTHON: with TensorFlow for GPUs and this package's requirements (default python3)
#                                  DEVICE: CPU:0 to try the script where there is no GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-runs/gpu} python=${PYTHON:-python3} device=${DEVICE:-GPU:0}
mkdir -p "$folder"
export PYTHONPATH=$PWD TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2} TF_FORCE_GPU_ALLOW_GROWTH=true
status=0
timeout 180 "$python" benchmarks/gpu_checks.py --device "$device" --output "$folder/checks.json" || status=$?
for jit in '' --jit; do
  timeout 140 "$python" benchmarks/optimizer_cost.py --batch 16 --context 128 --rounds 5 $jit \
    --output "$folder/cost$jit.json" || status=$?
done
exit "$status"
