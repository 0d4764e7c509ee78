"""What test_glue.py runs: the CUDA operators of one to three axes, with kernels emulated on the CPU."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch
from cases_nd import CASES_ND, CaseNd, tensors_of
from conftest import assert_as_good_as_torch

from pconv_cuda import ops
from pconv_cuda.ops import convolution_nd

LIBRARY = os.environ["PCONV_EMULATED_LIBRARY"]
torch.ops.load_library(LIBRARY)
library = ctypes.CDLL(LIBRARY)
emulated = torch.ops.pconv_emulated
torch.library.register_fake("pconv_emulated::partial_conv_nd", convolution_nd._forward_fake)
torch.library.register_fake("pconv_emulated::partial_conv_nd_backward", convolution_nd._backward_fake)
CASES = [case for case in CASES_ND if case.axes > 1]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def _device() -> None:
    library.pconv_emulated_device(80, 40, 0, ctypes.c_int64(2**31 - 1))


def results(case: CaseNd, operators, dtype: torch.dtype, channels_last: bool) -> list[torch.Tensor]:
    """[y, new mask, ratio, dx, dw, db] of these operators."""
    x, mask, w, b, grad = tensors_of(case, dtype)
    layout = torch.channels_last if case.axes == 2 else torch.channels_last_3d
    x, w, grad = (t.to(dtype).contiguous(memory_format=layout) if channels_last else t.to(dtype) for t in (x, w, grad))
    window = [list(part) if isinstance(part, tuple) else part for part in case.window]
    y, new_mask, ratio = operators.partial_conv_nd(x, mask, w, None if b is None else b.to(dtype), *window)
    return [y, new_mask, ratio, *operators.partial_conv_nd_backward(grad, x, mask, w, ratio, *window, True, True, True)]


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_as_the_cpu_operator(case: CaseNd, dtype: torch.dtype, channels_last: bool) -> None:
    ours = results(case, emulated, dtype, channels_last)
    cpu = results(case, torch.ops.pconv_cuda, dtype, channels_last)
    truth = results(case, torch.ops.pconv_cuda, torch.float64, channels_last) if dtype == torch.float64 else None
    assert torch.equal(ours[1], cpu[1]) and torch.equal(ours[2], cpu[2])
    for name, own, other in zip(("y", "dx", "dw", "db"), (ours[0], *ours[3:]), (cpu[0], *cpu[3:]), strict=True):
        assert own.shape == other.shape and own.stride() == other.stride(), name
        if truth is not None:
            assert_as_good_as_torch(own, other, other, name)
        else:  # the same library in the same precision; the sums of db alone are added in another order
            scale = 1 if other.numel() == 0 else other.abs().max().float().clamp(min=1)
            assert ((own.float() - other.float()).abs() <= 4 * torch.finfo(dtype).eps * scale).all(), name


@EACH
def test_fake_kernels_tell_shapes_and_strides(case: CaseNd) -> None:
    x, mask, w, b, grad = (t if t is None or t.dtype == torch.bool else t.float() for t in tensors_of(case))
    window = [list(part) if isinstance(part, tuple) else part for part in case.window]
    only = ["test_schema", "test_faketensor"]
    torch.library.opcheck(emulated.partial_conv_nd.default, (x, mask, w, b, *window), test_utils=only)
    ratio = emulated.partial_conv_nd(x, mask, w, b, *window)[2]
    for needed in ((True, True, True), (False, True, False)):
        arguments = (grad, x, mask, w, ratio, *window, *needed)
        torch.library.opcheck(emulated.partial_conv_nd_backward.default, arguments, test_utils=only)


def test_masks_are_read_alike_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[0]
    x, mask, w, _, _ = (t if t is None or t.dtype == torch.bool else t.float() for t in tensors_of(case))
    window = [list(part) if isinstance(part, tuple) else part for part in case.window]
    expected = ops.partial_conv_nd(x, mask, w, None, *window)
    turned = mask.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (mask.to(torch.uint8), mask.double(), mask.half() * -3, turned, torch.where(mask, 1.0, torch.nan)):
        found = emulated.partial_conv_nd(x, other, w, None, *window)
        assert torch.equal(found[1], expected[1]) and torch.equal(found[2], expected[2])
    monkeypatch.setenv("PCONV_CHECK", "1")
    with pytest.raises(RuntimeError, match=r"mask: expected zeros and ones \(PCONV_CHECK=1\)"):
        emulated.partial_conv_nd(x, mask.float() * 0.5, w, None, *window)
