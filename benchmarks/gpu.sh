#!/usr/bin/env bash
# Check and time perser on one CUDA card, in under six minutes: benchmarks/gpu.sh [FOLDER]
#
# Engine and features against the processor, then the shapes of `perser bench meta`, beside torch.func and, where it is
# installed, JAX, and those of `features` and `adapt`. FOLDER (benchmarks) gets cuda-*.json. PYTHON: which python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-benchmarks} python=${PYTHON:-.venv/bin/python} began=$SECONDS seconds=350
if ! "$python" -W ignore -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: torch sees no CUDA card here, so nothing was run" >&2
    exit 1
fi
export XLA_PYTHON_CLIENT_PREALLOCATE=false # else JAX takes the card's memory from torch
limited() { timeout $((seconds - (SECONDS - began))) "$python" -m "$@"; }
limited benchmarks.gpu --out "$out/cuda-check.json"
limited perser bench meta --device cuda --rounds 3 --out "$out/cuda-meta.json"
limited perser bench adapt --device cuda --rounds 3 --out "$out/cuda-adapt.json"
limited perser bench features --device cuda --rounds 1 --size 0.2 --out "$out/cuda-features.json"
echo "gpu.sh: $((SECONDS - began)) s; $out/cuda-*.json"
