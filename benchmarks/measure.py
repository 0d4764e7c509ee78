"""Timing that can be believed: rivals take turns in one process, medians, and the machine beside the numbers."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Rivals = dict[str, Callable[[], Any]]


def alternate(rivals: Rivals, rounds: int, warmup: int = 3) -> dict[str, list[float]]:
    """Seconds of every call. In each round every rival runs once, so that drift and noise hit all alike.

    The order moves on by one each round: nobody always follows the rival that leaves the caches cold.
    """
    names = list(rivals)
    times: dict[str, list[float]] = {name: [] for name in rivals}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(warmup + rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                start = time.perf_counter()
                rivals[name]()
                if turn >= warmup:
                    times[name].append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return times


def summary(times: dict[str, list[float]], base: str) -> dict[str, Any]:
    """Median, least and most in milliseconds; ``ratio``: the median over the rounds of a call's time over ``base``'s.

    Times of one round are compared with each other, so that a slow minute of the machine does not decide;
    ``ratio_of_min`` compares the best rounds.
    """
    best = min(times[base])
    return {
        name: {
            "median_ms": round(statistics.median(values) * 1e3, 4),
            "min_ms": round(min(values) * 1e3, 4),
            "max_ms": round(max(values) * 1e3, 4),
            "ratio": round(statistics.median(a / b for a, b in zip(values, times[base], strict=True)), 4),
            "ratio_of_min": round(min(values) / best, 4),
        }
        for name, values in times.items()
    }


def machine() -> dict[str, Any]:
    """Everything a reader needs to judge the numbers."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    load = [round(value, 2) for value in os.getloadavg()]
    return {
        "cpu": model, "cores": os.cpu_count(), "gpu": device, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "load": load, "python": platform.python_version(),
    }  # fmt: skip
