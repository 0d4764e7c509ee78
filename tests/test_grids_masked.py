"""pconv_cuda.fill of numpy's masked arrays: what is masked is missing, and so is NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pconv_cuda
from pconv_cuda.errors import PConvError

FIELD = np.add.outer(np.arange(12.0), 2 * np.arange(15.0))


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8"])
def test_nan_and_masked_values_are_filled(dtype: str) -> None:
    gone = np.random.default_rng(0).random(FIELD.shape) < 0.3
    plain = np.where(gone, np.nan, FIELD).astype(dtype)
    expected = pconv_cuda.fill("smooth", plain)
    some = gone & (np.random.default_rng(1).random(FIELD.shape) < 0.5)
    for masked in (np.zeros_like(gone), some, gone):  # the rest of the gaps is NaN, and infinity may lie under a mask
        array = np.ma.masked_array(np.where(masked, np.inf, plain).astype(dtype), masked, fill_value=-9)
        found = pconv_cuda.fill("smooth", array)
        assert isinstance(found, np.ma.MaskedArray) and found.dtype == np.dtype(dtype) and found.fill_value == -9
        assert not np.ma.getmaskarray(found).any() and np.array_equal(found.data, expected)
        assert np.array_equal(np.isinf(array.data), masked)  # what was given is as it was


def test_no_mask_at_all() -> None:
    plain = FIELD.copy()
    plain[3:5, 4:9] = np.nan
    found = pconv_cuda.fill("smooth", np.ma.masked_array(plain))
    assert np.array_equal(found.data, pconv_cuda.fill("smooth", plain)) and not np.ma.getmaskarray(found).any()


def test_an_empty_plane_stays_masked() -> None:
    array = np.ma.masked_array(np.stack([FIELD, FIELD]), False)
    array[1] = np.ma.masked
    with pytest.warns(UserWarning, match="1 of 2 planes have no value"):
        found = pconv_cuda.fill("smooth", array)
    assert np.array_equal(found[0].data, FIELD) and not found.mask[0].any() and found.mask[1].all()


@pytest.mark.parametrize("dtype", ["i2", "i8", "u1", "bool"])
def test_integers_are_refused_masked_or_not(dtype: str) -> None:
    arrays: list[Any] = [FIELD.astype(dtype), np.ma.masked_array(FIELD.astype(dtype), FIELD > 20)]
    for array in arrays:
        with pytest.raises(PConvError, match=f"array: expected float16, float32 or float64, got {array.dtype}"):
            pconv_cuda.fill("smooth", array)
