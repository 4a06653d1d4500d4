#!/usr/bin/env bash
# Check and time perser on one CUDA card, in under six minutes: benchmarks/gpu.sh [FOLDER]
#
# Engine and features against the processor, then the shapes of `perser bench meta`, beside learn2learn, torch.func and,
# where it is installed for the card, JAX, and those of `adapt` and `features`. FOLDER (benchmarks) gets cuda-*.json,
# those of before a failure too. PYTHON: which python.
set -uo pipefail
out=${1:+$(realpath -m "$1")} began=$SECONDS seconds=350 failed=0
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
out=${out:-benchmarks} python=${PYTHON:-.venv/bin/python}
if ! "$python" -W ignore -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: torch sees no CUDA card here (./reproduce.sh check has details), so nothing was run" >&2
    exit 1
fi
export XLA_PYTHON_CLIENT_PREALLOCATE=false # else JAX takes the card's memory from torch
limited() {
    local left=$((seconds - (SECONDS - began)))
    if ((left <= 0)) || ! timeout "$left" "$python" -m "$@"; then
        failed=1
        echo "gpu.sh: failed or out of time: $*" >&2
    fi
}
limited benchmarks.gpu --out "$out/cuda-check.json"
limited perser bench adapt --device cuda --rounds 3 --out "$out/cuda-adapt.json"
limited perser bench features --device cuda --rounds 1 --size 0.2 --out "$out/cuda-features.json"
limited perser bench meta --device cuda --rounds 3 --out "$out/cuda-meta.json" # last, as it takes longest
echo "gpu.sh: $((SECONDS - began)) s; $out/cuda-*.json"
exit "$failed"
