"""Writes the shared list of cases (tests/cases.py) as text for the drivers without torch: one case a line.

python export_cases.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases import BY_NAME, CASES, KERNEL_CASES, WGMMA_CASES, Case  # noqa: E402


def line(case: Case) -> str:
    numbers = [case.n, case.c, case.h, case.w, case.k, *case.window, *case.stride, *case.padding, *case.dilation]
    blocks = case.mask_channels or (0,)
    return " ".join(map(str, [case.name, *numbers, case.groups, case.mask, int(case.bias), len(blocks), *blocks]))


def export(target: Path, arch: str = "80") -> None:
    # Of the common cases one that wgmma takes, and two that it leaves to the other kernels.
    for_wgmma = [*WGMMA_CASES, *(BY_NAME[name] for name in ("wide", "enc2", "groups"))]
    cases = for_wgmma if arch == "90" else [*CASES, *KERNEL_CASES]
    target.write_text("\n".join(map(line, cases)) + "\n")


if __name__ == "__main__":
    export(Path(sys.argv[1]), sys.argv[3] if sys.argv[2:3] == ["--arch"] else "80")
