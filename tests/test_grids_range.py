"""pconv_cuda.fill at the ends of the dtypes' ranges."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import pconv_cuda
from pconv_cuda import PConvUNet
from pconv_cuda.grids.work import fill_file

ROWS, COLUMNS = np.mgrid[:40, :50]
FIELD = np.sin(COLUMNS / 9.0) + np.cos(ROWS / 7.0)
GAPS = np.random.default_rng(0).random(FIELD.shape) < 0.5


def error(dtype: str, scale: float, offset: float = 0.0) -> float:
    """Of the filled values, in units of the field."""
    truth = (FIELD * scale + offset).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled = pconv_cuda.fill("smooth", np.where(GAPS, np.nan, truth).astype(dtype))
    assert filled.dtype == np.dtype(dtype) and np.isfinite(filled).all() and np.array_equal(filled[~GAPS], truth[~GAPS])
    difference = filled.astype(np.float64) / scale - truth.astype(np.float64) / scale
    return float(np.sqrt(np.mean(difference[GAPS] ** 2)))


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [
        ("f2", [3e4, 1e-3]),
        ("f4", [1e38, 1e30, 1e-20, 1e-25, 1e-36]),
        ("f8", [8e307, 1e200, 1e-160, 1e-200, 1e-300]),
    ],
)
def test_the_unit_changes_nothing(dtype: str, scales: list[float]) -> None:
    at_one = error(dtype, 1.0)
    assert at_one < 0.02
    for scale in scales:
        assert error(dtype, scale) < 1.02 * at_one + (1e-3 if dtype == "f2" else 0), scale


def test_a_small_field_on_a_large_level_and_planes_of_different_size() -> None:
    assert error("f8", 1e290, 1e300) < 0.02 and error("f4", 1.0, -3e5) < 0.05
    planes = np.where(GAPS, np.nan, np.stack([FIELD * 1e200, FIELD, FIELD * 1e-200, FIELD * 0 + 7]))
    together = pconv_cuda.fill("smooth", planes)
    for plane, filled in zip(planes, together, strict=True):
        assert np.array_equal(pconv_cuda.fill("smooth", plane), filled)
    assert (together[3] == 7).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_slopes_end_at_the_largest_number(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    row = torch.tensor([0, 1 / 3, 2 / 3, 1] + [torch.nan] * 3, dtype=torch.float64) * largest
    for sign in (1, -1):
        array = (sign * row).to(dtype).repeat(3, 1)
        filled = pconv_cuda.fill("smooth", array, tension=0.0)
        known = ~array.isnan()
        assert torch.equal(filled[known], array[known]) and (sign * filled[:, 4:] > 0.99 * largest).all()
        assert filled.isfinite().all()


def test_packed_and_float_files_at_the_end(tmp_path: Path) -> None:
    row = np.array([[0, 2e4, 4e4, 6e4, np.nan, np.nan, np.nan]] * 3, np.float16)
    np.save(tmp_path / "in.npy", row)
    fill_file(tmp_path / "in.npy", tmp_path / "out.npy", tension=0.0)
    assert (np.load(tmp_path / "out.npy")[:, 4:] == np.finfo(np.float16).max).all()


def test_a_network_whose_answer_is_too_large() -> None:
    torch.manual_seed(0)
    model = PConvUNet(1, levels=2, width=4, values="data", mean=(6e4,), std=(1e6,)).eval()
    array = torch.full((1, 16, 16), 6e4, dtype=torch.float16)
    array[:, 4:9, 4:9] = torch.nan
    filled = pconv_cuda.fill(model, array)
    assert filled.isfinite().all() and (filled[:, :4] == array[:, :4]).all()


def test_the_warning_counts_planes_that_were_empty() -> None:
    planes = np.where(GAPS, np.nan, np.stack([FIELD * 1e300, FIELD])).astype(np.float64)
    planes[1] = np.nan
    with pytest.warns(UserWarning, match="1 of 2 planes have no value and stay empty"):
        pconv_cuda.fill("smooth", planes)
