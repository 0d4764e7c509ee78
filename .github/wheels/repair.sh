#!/usr/bin/env bash
# repair.sh DESTINATION WHEEL: the libraries of torch and CUDA stay outside; torch brings them.
set -euo pipefail
auditwheel repair -w "$1" \
    --exclude 'libtorch*.so*' --exclude 'libc10*.so*' --exclude 'libcudart.so*' --exclude 'libcuda.so*' "$2"
