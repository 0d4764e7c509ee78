"""The gradient of a strided 1x1 weight, in which torch's library writes past its memory (uxlfoundation/oneDNN#6035).

In a process of its own, so that a crash is a failed test; with glibc's checks of the heap where they are there.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pconv_cuda.functional import partial_conv2d
from pconv_cuda.reference import overruns_workspace

ROOT = Path(__file__).parents[1]
CHECKS = "libc_malloc_debug.so.0"
PROGRAM = """
import sys, torch
from pconv_cuda import PartialConv2d, reference
from pconv_cuda.functional import partial_conv2d

function = {"ours": partial_conv2d, "reference": reference.partial_conv2d}[sys.argv[1]]
for layout in (torch.channels_last, torch.contiguous_format):
    for n, c, h, w, k, stride, groups in (
        (3, 15, 19, 18, 37, (1, 3), 1), (2, 3, 16, 16, 8, (2, 2), 1), (2, 1, 16, 16, 8, (2, 2), 1),
        (4, 12, 8, 12, 6, (2, 2), 1), (2, 20, 12, 12, 20, (3, 3), 1), (2, 30, 12, 12, 30, (2, 2), 2),
    ):
        for _ in range(3):
            x = torch.empty(n, c, h, w, memory_format=layout).normal_().requires_grad_()
            weight = torch.empty(k, c // groups, 1, 1).to(memory_format=torch.channels_last).normal_()
            weight = weight.requires_grad_()
            mask = torch.rand(n, 1, h, w) > 0.3
            output, _ = function(x, mask, weight, stride=stride, groups=groups)
            output.sum().backward()
            masked = torch.where(mask, x.detach(), 0.0)[..., ::stride[0], ::stride[1]].double().contiguous()
            true = torch.where(mask[..., ::stride[0], ::stride[1]], masked, 0).sum((0, 2, 3)).view(groups, 1, -1)
            true = true.expand(groups, k // groups, c // groups).reshape(k, -1)
            torch.testing.assert_close(weight.grad.flatten(1).double(), true, rtol=1e-4, atol=1e-3)
print("done")
"""


@pytest.mark.parametrize(("function", "fallback"), [("ours", False), ("ours", True), ("reference", False)])
def test_the_heap_stays_whole(function: str, fallback: bool) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PCONV_FALLBACK": "1" if fallback else ""}
    try:
        ctypes.CDLL(CHECKS)
        environment |= {"LD_PRELOAD": CHECKS, "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    except OSError:
        environment |= {"MALLOC_CHECK_": "3"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, function], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0 and done.stdout.endswith("done\n"), f"{done.returncode}: {done.stderr[-2000:]}"


def test_only_the_faulty_case_is_copied() -> None:
    weights = {
        name: torch.empty(4, c, r, 1) for name, (c, r) in {"odd": (12, 1), "even": (16, 1), "wide": (12, 3)}.items()
    }
    assert overruns_workspace(weights["odd"], 2) and overruns_workspace(weights["odd"], [1, 2])
    assert not overruns_workspace(weights["odd"], 1) and not overruns_workspace(weights["odd"], (1, 1))
    assert not overruns_workspace(weights["even"], 2) and not overruns_workspace(weights["wide"], 2)


def test_gradients_keep_their_layouts() -> None:
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(2, 12, 8, 8).to(memory_format=layout).requires_grad_()
        weight = torch.randn(6, 12, 1, 1).requires_grad_()
        output, _ = partial_conv2d(x, None, weight, stride=2)
        output.sum().backward()
        assert output.is_contiguous(memory_format=layout) and x.grad.is_contiguous(memory_format=layout)
