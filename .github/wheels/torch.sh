#!/usr/bin/env bash
# torch.sh REQUIREMENT...: installs torch, and what else is named, from the index of PCONV_WHEEL=cpu|cu12|cu13.
set -euo pipefail
case "${PCONV_WHEEL:-cpu}" in
    cpu) index=cpu ;;
    cu12) index=cu128 ;;
    cu13) index=cu130 ;;
    *) echo "PCONV_WHEEL: expected cpu, cu12 or cu13, got ${PCONV_WHEEL}" >&2; exit 1 ;;
esac
pip install "$@" --index-url "https://download.pytorch.org/whl/$index"
