"""16-bit convolutions where windows miss the picture: there torch's library crashes or leaves gradients unwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.func import vmap

from pconv_cuda import reference
from pconv_cuda.functional import partial_conv2d

ROOT = Path(__file__).parents[1]
# In a process of its own: a crash is a failed test. Freed memory full of NaN stands for whatever lies there.
PROGRAM = """
import sys, torch
from pconv_cuda import reference
from pconv_cuda.functional import partial_conv2d

functions = {"ours": partial_conv2d, "reference": reference.partial_conv2d}
cases = [(w, s, stride, pad, 1) for w, s, stride, pad in
         ((1, 3, 2, 1), (1, 5, 2, 2), (1, 7, 3, 3), (2, 3, 3, 1), (2, 5, 4, 2), (3, 3, 4, 1), (4, 7, 5, 3))]
cases += [(1, 2, 2, 3, 2), (1, 3, 1, 5, 1), (3, 2, 2, 3, 2)]

def check(function, autocast):
    for dtype in (torch.bfloat16, torch.float16):
        for w, s, stride, pad, dilation in cases:
            for c, groups, layout in ((16, 1, torch.channels_last), (4, 1, torch.channels_last),
                                      (16, 1, torch.contiguous_format), (16, 2, torch.channels_last)):
                where = {"stride": (1, stride), "padding": (1, pad), "dilation": (1, dilation), "groups": groups}
                x = torch.randn(2, c, 3, w).to(dtype).to(memory_format=layout)
                weight = torch.randn(16, c // groups, 3, s).to(dtype)
                found = []
                for kind in (dtype, torch.float64):
                    junk = [torch.full((1 << size,), torch.nan) for size in range(8, 18)]
                    del junk
                    given = torch.float32 if autocast and kind == dtype else kind
                    leaves = [t.to(given).requires_grad_() for t in (x, weight)]
                    with torch.autocast("cpu", dtype, enabled=autocast and kind == dtype):
                        output, _ = function(leaves[0], None, leaves[1], **where)
                    found.append([output, *torch.autograd.grad(output.sum(), leaves)])
                for ours, true in zip(*found):
                    limit = 0.02 * true.abs().max()
                    assert ((ours.double() - true).abs() <= limit).all(), (dtype, w, s, stride, pad, c, groups)

for name in sys.argv[1:]:
    for context in ("plain", "autocast"):
        print(name, context, end=" ", flush=True)
        check(functions[name], context == "autocast")
print("done")
"""


@pytest.mark.parametrize(("functions", "fallback"), [(["ours", "reference"], ""), (["ours"], "1")])
def test_windows_outside_the_picture(functions: list[str], fallback: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PCONV_FALLBACK": fallback}
    call = [sys.executable, "-c", PROGRAM, *functions]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=300)
    expected = " ".join(f"{name} {context}" for name in functions for context in ("plain", "autocast")) + " done\n"
    assert (done.returncode, done.stdout) == (0, expected), f"{done.returncode}: {done.stdout}{done.stderr[-2000:]}"


def test_counts_under_autocast_are_exact_in_the_reference() -> None:
    """Masks of all channels are counted by a convolution, which autocast would round to 8 bits."""
    mask = torch.ones(1, 64, 3, 3)
    mask[0, 5, 1, 1] = 0
    x, weight = torch.ones(1, 64, 3, 3), torch.full((1, 64, 3, 3), 1 / 64)
    with torch.autocast("cpu", torch.bfloat16):
        ratio = reference.window_ratio(mask, weight, 1, torch.float32)
        output, _ = vmap(lambda each: partial_conv2d(each, mask, weight))(x[None])
    assert ratio.item() == torch.tensor(576.0).div(575).item()
    torch.testing.assert_close(output.float().item(), 9.0, rtol=0.01, atol=0)
