"""The device that is measured, and its stand-in for rehearsals on a machine without one.

With ``PCONV_REHEARSE=1`` in the environment tensors lie on the CPU, and the few parts of torch.cuda that the run uses
are replaced: every line runs, and the numbers are meaningless.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import torch

REHEARSED = os.environ.get("PCONV_REHEARSE") == "1"
NAME = "cpu" if REHEARSED else "cuda"
BROKEN = 3  # exit code of a program after whose fault nothing in its process can be trusted
PATIENCE = 25  # seconds until a program of this folder takes the device for hung


class _Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return max(1e-3, (end.at - self.at) * 1e3)


class _Graph:
    """Its body runs once, while it is captured; a replay is nothing."""

    def replay(self) -> None:
        pass


class _Stream:
    def wait_stream(self, other: _Stream) -> None:
        pass


def install_stand_in() -> None:
    """Replaces torch.cuda's part in a rehearsal."""
    torch.cuda.synchronize = lambda: None  # type: ignore[assignment]
    cuda: Any = torch.cuda
    cuda.Event, cuda.CUDAGraph, cuda.Stream = _Event, _Graph, _Stream
    cuda.graph = lambda graph: contextlib.nullcontext()
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.current_stream = _Stream
    cuda._sleep = lambda cycles: None
    cuda.empty_cache = cuda.reset_peak_memory_stats = lambda: None
    cuda.memory_allocated = lambda: 0
    cuda.max_memory_allocated = lambda: 1 << 20
    cuda.get_device_name = lambda: "rehearsed device"
    cuda.get_device_capability = lambda: (9, 0)


if REHEARSED:
    install_stand_in()


def is_there() -> bool:
    return REHEARSED or torch.cuda.is_available()


def architecture() -> str:
    """As nvcc names it: 80, 90a."""
    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}{'a' if major >= 9 else ''}"


def has_wgmma() -> bool:
    return architecture() == "90a"


def take_wgmma(choice: bool) -> None:
    """Which kernels later calls run on sm_90: wgmma's or those of mma.sync. Raises where there are no CUDA kernels."""
    if REHEARSED:
        return
    from pconv_cuda.ops import extension  # not above: the run begins before the extension is built

    module = extension.cuda_module()
    if module is None:
        raise RuntimeError("this build of pconv_cuda has no CUDA kernels; build it first")
    module.set_wgmma(choice)


def set_tf32(allowed: bool) -> None:
    """Whether fp32 convolutions may round to tf32, torch's and ours."""
    torch.backends.cudnn.conv.fp32_precision = "tf32" if allowed else "ieee"  # type: ignore[attr-defined]


def captured(call: Any) -> Any:
    """``call`` as a CUDA graph, warmed up on a stream of its own; calling it replays the graph.

    Time then has no gaps in which the host prepares launches.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> Any:
        graph.replay()
        return kept

    return replay
