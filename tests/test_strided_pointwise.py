"""The gradient of a strided 1x1 weight, in which torch's library writes past its memory (uxlfoundation/oneDNN#6035).

In a process of its own, so that a crash is a failed test; with glibc's checks of the heap where they are there.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pconv_cuda import reference
from pconv_cuda.functional import partial_conv2d
from pconv_cuda.reference import needs_plain_strides

ROOT = Path(__file__).parents[1]
CHECKS = "libc_malloc_debug.so.0"
PROGRAM = """
import sys, torch
from pconv_cuda import PartialConv2d, reference
from pconv_cuda.functional import partial_conv2d

functions = {"ours": partial_conv2d, "reference": reference.partial_conv2d}

def check(function):
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

for name in sys.argv[1:]:
    print(name, end=" ", flush=True)
    check(functions[name])
print("done")
"""


@pytest.mark.parametrize(("functions", "fallback"), [(["ours", "reference"], ""), (["ours"], "1")])
def test_the_heap_stays_whole(functions: list[str], fallback: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PCONV_FALLBACK": fallback}
    try:
        ctypes.CDLL(CHECKS)
        environment |= {"LD_PRELOAD": CHECKS, "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    except OSError:
        environment |= {"MALLOC_CHECK_": "3"}
    command = [sys.executable, "-c", PROGRAM, *functions]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    ended = done.returncode == 0 and done.stdout.endswith(f"{' '.join(functions)} done\n")
    assert ended, f"{done.returncode}: {done.stdout[-200:]}{done.stderr[-2000:]}"


def test_only_the_faulty_cases_are_copied() -> None:
    x, odd, even, wide = (
        torch.empty(1, 12, 4, 4),
        torch.empty(4, 12, 1, 1),
        torch.empty(4, 16, 1, 1),
        torch.empty(4, 12, 3, 1),
    )
    assert needs_plain_strides(x, odd, 2, 0, 1) and needs_plain_strides(x, odd, [1, 2], [0, 0], [1, 1])
    assert not needs_plain_strides(x, odd, 1, 0, 1) and not needs_plain_strides(x, odd, (1, 1), (0, 0), (1, 1))
    assert not needs_plain_strides(x, even, 2, 0, 1) and not needs_plain_strides(x, wide, 2, 0, 1)


def test_one_channel_is_copied_where_input_or_output_has_one_row_or_column() -> None:
    window, x = torch.empty(4, 1, 3, 2), torch.empty(2, 1, 6, 5)
    assert needs_plain_strides(x[..., :1], window, 1, 1, 1) and needs_plain_strides(x[..., :1, :], window, 1, "same", 1)
    assert not needs_plain_strides(x, window, 1, 0, 1) and not needs_plain_strides(x, window, [4, 3], [1, 0], [1, 1])
    assert not needs_plain_strides(x, window, (3, 3), 0, 1) and needs_plain_strides(x, window, (4, 3), 0, 1)
    assert needs_plain_strides(x, window, 1, 0, (1, 4)) and not needs_plain_strides(x, window, 1, 0, (1, 3))
    assert needs_plain_strides(x, window, (1, 4), "valid", (1, 1)) and not needs_plain_strides(x, window, 1, "same", 4)
    assert not needs_plain_strides(torch.empty(2, 2, 6, 5), torch.empty(4, 2, 6, 5), 1, 0, 1)


# where the output has one column: (2, 1, 1, 2) and a 20 x 3 picture gave numbers from elsewhere
ONE_COLUMN = [
    ((2, 1, 1, 2), (8, 1, 5, 7), (1, 3), (3, 3)), ((1, 1, 20, 3), (8, 1, 5, 5), (1, 2), (2, 1)),
    ((2, 1, 3, 20), (2, 1, 5, 5), (2, 1), (1, 2)), ((1, 1, 9, 7), (1, 1, 3, 7), (1, 1), (0, 0)),
]  # fmt: skip


@pytest.mark.parametrize("layouts", list(itertools.product(["plain", "channels_last", "transposed"], repeat=2)))
@pytest.mark.parametrize("case", ONE_COLUMN, ids=lambda case: str(case[0]))
@pytest.mark.parametrize("function", [partial_conv2d, reference.partial_conv2d])
def test_one_channel_whose_output_has_one_column(function, case, layouts) -> None:
    def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
        if layout == "transposed":
            return tensor.mT.contiguous().mT
        return tensor.to(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)

    size, window, stride, padding = case
    x, weight = torch.randn(size), torch.randn(window)
    leaves = laid_out(x, layouts[0]).requires_grad_(), laid_out(weight, layouts[1]).requires_grad_()
    output, _ = function(leaves[0], torch.ones(size), leaves[1], None, stride, padding)
    truth = tuple(tensor.detach().double().requires_grad_() for tensor in (x, weight))
    full = F.conv2d(torch.ones(size).double(), torch.ones_like(truth[1]), None, stride, padding)
    expected = F.conv2d(*truth, None, stride, padding) * weight[0].numel() / full.double()
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    grad = torch.randn_like(output)
    for ours, theirs in zip(
        torch.autograd.grad(output, leaves, grad), torch.autograd.grad(expected, truth, grad.double()), strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strides", [(16, 1, 4, 1), (16, 1, 4, 4), (16, 4, 1, 1)])
@pytest.mark.parametrize("filters", [1, 2])
def test_weights_of_one_column_in_any_strides(filters: int, strides: tuple[int, ...]) -> None:
    x = torch.randn(1, 4, 3, 7).to(memory_format=torch.channels_last)
    weight = torch.empty_strided((filters, 4, 4, 1), strides).normal_()
    plain = weight.clone(memory_format=torch.contiguous_format)
    expected = None
    for each in (plain.double(), weight):
        leaf = each.detach().requires_grad_()
        output, _ = partial_conv2d(x.to(leaf.dtype), None, leaf, None, 2, 1)
        (gradient,) = torch.autograd.grad(output.sum(), [leaf])
        expected = gradient if expected is None else expected
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function", [partial_conv2d, reference.partial_conv2d])
def test_one_channel_of_one_column_in_any_layout(function, dtype: torch.dtype) -> None:
    for size, step in (((3, 1), (1, 2)), ((1, 3), (2, 1)), ((1, 1), (2, 2))):
        image, filters = torch.randn(2, 1, *size).to(dtype), torch.randn(5, 1, 3, 3).to(dtype)
        expected = None
        for of_image in (torch.contiguous_format, torch.channels_last):
            for of_filters in (torch.contiguous_format, torch.channels_last):
                x = torch.empty(image.shape, dtype=dtype, memory_format=of_image).copy_(image).requires_grad_()
                weight = (
                    torch.empty(filters.shape, dtype=dtype, memory_format=of_filters).copy_(filters).requires_grad_()
                )
                output, _ = function(x, None, weight, None, step, 1)
                found = [output, *torch.autograd.grad(output.sum(), [x, weight])]
                if expected is None:
                    leaves = [t.detach().double().contiguous().requires_grad_() for t in (image, filters)]
                    true, _ = function(*leaves[:1], None, leaves[1], None, step, 1)
                    expected = [true, *torch.autograd.grad(true.sum(), leaves)]
                for ours, true in zip(found, expected, strict=True):
                    torch.testing.assert_close(ours.double(), true, rtol=0.02, atol=0.05)


def test_gradients_keep_their_layouts() -> None:
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(2, 12, 8, 8).to(memory_format=layout).requires_grad_()
        weight = torch.randn(6, 12, 1, 1).requires_grad_()
        output, _ = partial_conv2d(x, None, weight, stride=2)
        output.sum().backward()
        assert output.is_contiguous(memory_format=layout) and x.grad.is_contiguous(memory_format=layout)
