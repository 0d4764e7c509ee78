#!/usr/bin/env bash
# Before each wheel: torch of the variant, and what setup.py needs; the wheel is then built without isolation.
set -euo pipefail
# The oldest torch that we take (it has every Python): one wheel serves every later one (torch's stable ABI).
bash "$(dirname "$0")/torch.sh" "torch==2.11.*" numpy
pip install "setuptools>=66" wheel ninja pybind11
