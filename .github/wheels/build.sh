#!/usr/bin/env bash
# Before each wheel: torch of the variant, and what setup.py needs; the wheel is then built without isolation.
set -euo pipefail
case "${PCONV_WHEEL:-cpu}" in
    cpu) index=cpu ;;
    cu12) index=cu128 ;;
    cu13) index=cu130 ;;
    *) echo "PCONV_WHEEL: expected cpu, cu12 or cu13, got ${PCONV_WHEEL}" >&2; exit 1 ;;
esac
# The oldest torch that has this Python: one wheel serves every later one (torch's stable ABI).
pip install "torch>=2.11" numpy --index-url "https://download.pytorch.org/whl/$index"
pip install "setuptools>=66" wheel ninja pybind11
