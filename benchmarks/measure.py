"""Timing: rivals take turns in one process; medians, and the machine beside the numbers."""

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


def _on_host(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _by_events(device: str) -> Callable[[Callable[[], Any]], float]:
    """Device seconds by CUDA events, behind a flush of the L2 cache.

    The device then waits a millisecond, so that the host has the call's launches queued before the first event:
    what is timed has no gaps in which the device waits for the host. Calls whose host time is longer (whole networks)
    have to be captured in a CUDA graph.
    """
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=device)

    def seconds(call: Callable[[], Any]) -> float:
        flush.zero_()
        torch.cuda._sleep(2_000_000)  # cycles
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return seconds


def alternate(
    rivals: Rivals, rounds: int, warmup: int = 3, device: str = "cpu", events: bool | None = None
) -> dict[str, list[float]]:
    """Seconds of every call. In each round every rival runs once, so that drift and noise hit all alike.

    The order moves on by one each round: no rival always follows the one that leaves the caches cold. ``events``:
    timed by CUDA events; by default on a CUDA device.
    """
    by_events = device == "cuda" if events is None else events
    names, seconds = list(rivals), _by_events(device) if by_events else _on_host
    times: dict[str, list[float]] = {name: [] for name in rivals}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(warmup + rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                taken = seconds(rivals[name])
                if turn >= warmup:
                    times[name].append(taken)
    finally:
        if collecting:
            gc.enable()
    return times


def summary(times: dict[str, list[float]], base: str) -> dict[str, Any]:
    """Median, least and most in milliseconds; ``ratio``: the median over the rounds of a call's time over ``base``'s.

    Times of one round are compared with each other, so that slow phases of the machine cancel;
    ``ratio_of_min`` compares the best rounds. ``noise`` is the ratio's own uncertainty as a share of it: half of the
    median's 95 % interval by the notch rule, 1.57 times the quartiles' distance over the root of the rounds.
    """
    best = min(times[base])

    def noise(ratios: list[float]) -> float:
        if len(ratios) < 2:
            return float("inf")
        low, middle, high = statistics.quantiles(ratios, n=4)
        return 1.57 * (high - low) / len(ratios) ** 0.5 / middle

    paired = {name: [a / b for a, b in zip(values, times[base], strict=True)] for name, values in times.items()}
    return {
        name: {
            "median_ms": round(statistics.median(values) * 1e3, 4),
            "min_ms": round(min(values) * 1e3, 4),
            "max_ms": round(max(values) * 1e3, 4),
            "ratio": round(statistics.median(paired[name]), 4),
            "noise": round(noise(paired[name]), 4),
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
        "cpu": model, "cores": os.cpu_count(), "vectors": torch.backends.cpu.get_cpu_capability(), "gpu": device,
        "torch": torch.__version__, "threads": torch.get_num_threads(), "load": load,
        "python": platform.python_version(),
    }  # fmt: skip


def ceilings(device: str, dtype: torch.dtype, events: bool | None = None) -> dict[str, float]:
    """What this device reaches now: a large copy in bytes/s (read + written), large products in FLOP/s.

    The products are the best of a matrix product and a wide 3x3 convolution: on some CPUs the library's convolution is
    the faster of the two, and a floor from the slower one would lie above what is reached.
    """
    big = 1 << 30 if device == "cuda" else 1 << 28
    source = torch.randint(0, 256, (1 << 20,), dtype=torch.uint8, device=device).repeat(big >> 20)
    target = torch.empty_like(source)
    side = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(4, 256, 64, 64).to(device, dtype, memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3).to(device, dtype, memory_format=torch.channels_last)
    work: Rivals = {
        "copy": lambda: target.copy_(source),
        "product": lambda: a @ b,
        "convolution": lambda: torch.nn.functional.conv2d(x, weight, padding=1),
    }
    least = {name: min(values) for name, values in alternate(work, 5, warmup=1, device=device, events=events).items()}
    products = max(2 * side**3 / least["product"], 2 * 9 * 256**2 * 4 * 64**2 / least["convolution"])
    return {"copy_bytes_per_s": 2 * big / least["copy"], "product_flop_per_s": products}
