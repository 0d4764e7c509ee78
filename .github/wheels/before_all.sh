#!/usr/bin/env bash
# In a manylinux container (AlmaLinux 8), before the first wheel of PCONV_WHEEL=cpu|cu12|cu13: the CUDA compiler and headers.
set -euo pipefail
case "${PCONV_WHEEL:-cpu}" in
    cpu) exit 0 ;;
    cu12) release=12-8 ;;
    cu13) release=13-0 ;;
    *) echo "PCONV_WHEEL: expected cpu, cu12 or cu13, got ${PCONV_WHEEL}" >&2; exit 1 ;;
esac
case "$(uname -m)" in
    x86_64) folder=x86_64 ;;
    aarch64) folder=sbsa ;;
    *) echo "no CUDA for $(uname -m)" >&2; exit 1 ;;
esac
dnf install -y dnf-plugins-core
dnf config-manager --add-repo "https://developer.download.nvidia.com/compute/cuda/repos/rhel8/$folder/cuda-rhel8.repo"
# The headers of the driver's interface come with cudart's; those of the libraries are included by torch's own.
dnf install -y "cuda-nvcc-$release" "cuda-cudart-devel-$release" "libcublas-devel-$release" \
    "libcusparse-devel-$release" "libcusolver-devel-$release"
