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
    """Seconds of every call. In each round every rival runs once, so that drift and noise hit all alike."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(warmup + rounds):
            for name, call in rivals.items():
                start = time.perf_counter()
                call()
                if turn >= warmup:
                    times[name].append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return times


def summary(times: dict[str, list[float]], base: str) -> dict[str, Any]:
    """Median, least and most in milliseconds, and each rival's median over that of ``base``."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "median_ms": round(medians[name] * 1e3, 4),
            "min_ms": round(min(values) * 1e3, 4),
            "max_ms": round(max(values) * 1e3, 4),
            "ratio": round(medians[name] / medians[base], 4),
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
