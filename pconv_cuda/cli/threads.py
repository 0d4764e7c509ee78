"""How long the threads of torch's pool spin while they wait for work: set before torch is loaded, or not at all."""

from __future__ import annotations

import os
import sys

__all__ = ["SETTINGS", "SPINS", "spin_briefly"]

# Each decides how threads wait: GNU's OpenMP, everyone's, LLVM's and Intel's.
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")
SPINS = 3_000


def spin_briefly() -> None:
    """GNU's OpenMP, which torch has on Linux, lets waiting threads spin for about 300,000 rounds; here ``SPINS``.

    Where other processes want the cores, threads that spin keep them from the threads they wait for. A user's own
    choice stands. Child processes inherit it.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
