"""What test_glue.py runs: smooth_fill's CUDA operator, with kernels emulated on the CPU (see glue_checks.py)."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch
from torch import Tensor

from pconv_cuda import smooth
from pconv_cuda.ops import fill

LIBRARY = os.environ["PCONV_EMULATED_LIBRARY"]
torch.ops.load_library(LIBRARY)
library = ctypes.CDLL(LIBRARY)
emulated = torch.ops.pconv_emulated.smooth_fill.default
torch.library.register_fake("pconv_emulated::smooth_fill", fill._fake)
LAYOUTS = [torch.contiguous_format, torch.channels_last]
MORE = pytest.mark.full("the operators' glue in more cases")


@pytest.fixture(autouse=True)
def _device() -> None:
    library.pconv_emulated_device(80, 40, 0, ctypes.c_int64(2**31 - 1))


def case(dtype: torch.dtype, layout: torch.memory_format, mask_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    x = torch.rand(2, 3, 19, 26, dtype=torch.float64)
    valid = torch.rand(*mask_size, 19, 26) < 0.7
    valid[..., 3:16, :14] = False
    return x.to(dtype).contiguous(memory_format=layout), valid


@pytest.mark.parametrize("mask_size", [(1, 1), (2, 1), (1, 3), (2, 3)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, *(pytest.param(d, marks=MORE) for d in (torch.float64, torch.bfloat16, torch.float16))]
)
def test_as_the_reference(dtype: torch.dtype, layout: torch.memory_format, mask_size: tuple[int, int]) -> None:
    x, valid = case(dtype, layout, mask_size)
    holed = x.masked_fill(~valid, float("nan")).contiguous(memory_format=layout)
    filled = emulated(holed, valid, 0.3, 1e-6, 30)
    truth = smooth.smooth_fill(x.double(), valid, 0.3, 1e-10, 60)
    assert filled.dtype == dtype and filled.is_contiguous(memory_format=layout)
    assert torch.equal(filled[valid.expand_as(x)], x[valid.expand_as(x)])
    error = (filled.double() - truth).abs().max()
    assert error <= 2e-5 + (0 if dtype in (torch.float64, torch.float32) else torch.finfo(dtype).eps)


@pytest.mark.parametrize("iterations", [1, 3])
def test_iteration_by_iteration_as_the_reference(iterations: int) -> None:
    """The same start, smoother and levels: every iterate is the reference's, not the solution alone."""
    x, valid = case(torch.float64, torch.contiguous_format, (2, 1))
    expected = smooth.smooth_fill(x, valid, 0.3, 0.0, iterations)
    assert torch.allclose(emulated(x, valid, 0.3, 0.0, iterations), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(smooth.smooth_fill(x, valid, 0.3, 0.0, 4), expected, rtol=0, atol=1e-6)


def test_strided_and_empty_inputs() -> None:
    x, valid = case(torch.float32, torch.contiguous_format, (1, 1))
    expected = emulated(x, valid, 0.3, 1e-3, 9)
    wide = torch.zeros(2, 3, 19, 52)
    wide[..., ::2] = x
    assert torch.equal(emulated(wide[..., ::2], valid.mT.contiguous().mT, 0.3, 1e-3, 9), expected)
    assert emulated(x[:0], valid, 0.3, 1e-3, 9).shape == (0, 3, 19, 26)


def test_opcheck_and_errors() -> None:
    x, valid = case(torch.float32, torch.channels_last, (2, 1))
    torch.library.opcheck(emulated, (x, valid, 0.3, 1e-2, 3), test_utils=("test_schema", "test_faketensor"))
    with pytest.raises(RuntimeError, match=r"valid: expected \(2\|1, 1\|3, 19, 26\)"):
        emulated(x, valid[..., 1:], 0.3, 1e-3, 9)
    with pytest.raises(RuntimeError, match="tension: expected 0 to 1"):
        emulated(x, valid, 1.3, 1e-3, 9)


def test_devices_that_are_too_old_run_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCONV_FALLBACK", "1")
    library.pconv_emulated_device(75, 40, 0, ctypes.c_int64(2**31 - 1))
    x, valid = case(torch.float32, torch.contiguous_format, (2, 1))
    assert torch.equal(emulated(x, valid, 0.3, 1e-3, 9), smooth.smooth_fill(x, valid, 0.3, 1e-3, 9))
